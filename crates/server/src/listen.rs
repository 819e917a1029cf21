//! Connections: taken up to a limit, heads read in time, ended when the server ends.

use crate::app::{App, Limits};
use crate::router::router;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Reads a certificate chain and its key, in PEM.
///
/// # Errors
/// Files that cannot be read or do not belong together.
pub(crate) fn tls(certificate: &Path, key: &Path) -> std::io::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let told =
        |path: &Path, error: &dyn std::fmt::Display| std::io::Error::other(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| told(certificate, &e))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| told(key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(|e| told(certificate, &e))?.with_no_client_auth().with_single_cert(chain, private);
    Ok(TlsAcceptor::from(Arc::new(config.map_err(|e| told(certificate, &e))?)))
}

/// Serves `listener` until `stop` is done, then lets what is being answered end, for at most `grace`.
pub(crate) async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let router = router(&app);
    let (ending, watcher) = watch::channel(false);
    let places = Arc::new(Semaphore::new(app.limits.connections));
    tokio::pin!(stop);
    loop {
        // The place is taken first: who comes beyond the limit waits in the system's queue.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut stop => break,
        };
        let Ok(place) = place else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the client has gone already.
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        // Tokens are small and are to leave at once.
        drop(stream.set_nodelay(true));
        let (router, limits, watcher) = (router.clone(), app.limits.clone(), watcher.clone());
        let tls = tls.clone();
        tokio::spawn(async move {
            match tls {
                None => connection(stream, router, &limits, watcher).await,
                Some(tls) => match tokio::time::timeout(limits.header_time, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, router, &limits, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, "no TLS came about"),
                    Err(_) => tracing::debug!("no TLS came about in time"),
                },
            }
            drop(place);
        });
    }
    drop(listener);
    app.draining.store(true, Relaxed);
    tracing::info!(active = app.active.load(Relaxed), "no new connections; what is being answered goes on");
    let _ = ending.send(true);
    drop(watcher);
    drop(tokio::time::timeout(grace, ending.closed()).await);
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: &Limits,
    mut ending: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|e| match e {})) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        done = &mut connection => {
            if let Err(error) = done {
                tracing::debug!(%error, "a connection ended");
            }
            return;
        }
        _ = ending.wait_for(|ending| *ending) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}
