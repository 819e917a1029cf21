//! What went wrong with a request, told in the words of the dialect it came in.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Kinds of failure. A dialect has a word for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request makes no sense, or asks for what is not offered.
    Invalid,
    /// No key, or an unknown one.
    Unauthenticated,
    /// The key may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The method is not offered there.
    Method,
    /// It is there already, or in use.
    Conflict,
    /// The body is too large.
    TooLarge,
    /// The body is of a kind that is not read.
    MediaType,
    /// The body did not come in time.
    Timeout,
    /// The key has used up what it may use.
    RateLimit,
    /// Too much is going on; it may work later.
    Overloaded,
    /// Not offered here.
    NotImplemented,
    /// A fault of the server or the model.
    Internal,
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
            Kind::RateLimit => StatusCode::TOO_MANY_REQUESTS,
            Kind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// OpenAI's word, `error.type`.
    fn openai(self) -> &'static str {
        match self {
            Kind::Unauthenticated => "authentication_error",
            Kind::Forbidden => "permission_error",
            Kind::NotFound => "not_found_error",
            Kind::RateLimit => "rate_limit_error",
            Kind::Overloaded => "overloaded_error",
            Kind::NotImplemented => "not_implemented_error",
            Kind::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Anthropic's word, `error.type`.
    fn anthropic(self) -> &'static str {
        match self {
            Kind::Unauthenticated => "authentication_error",
            Kind::Forbidden => "permission_error",
            Kind::NotFound => "not_found_error",
            Kind::TooLarge => "request_too_large",
            Kind::RateLimit => "rate_limit_error",
            Kind::Overloaded => "overloaded_error",
            Kind::Internal | Kind::NotImplemented => "api_error",
            _ => "invalid_request_error",
        }
    }
}

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) param: Option<String>,
    /// A word that programs compare, such as `context_length_exceeded`.
    pub(crate) code: Option<&'static str>,
    /// Seconds after which it may work.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(Kind::Invalid, message)
    }

    /// A field that is wrong or not offered; `message` does not repeat its name.
    pub(crate) fn field(param: impl Into<String>, message: impl std::fmt::Display) -> ApiError {
        let param = param.into();
        ApiError { param: Some(param.clone()), ..ApiError::invalid(format!("{param}: {message}")) }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(Kind::NotFound, message)
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> ApiError {
        ApiError::new(Kind::Internal, error.to_string())
    }

    pub(crate) fn with_code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// The body as a dialect writes it.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => json!({
                "error": {
                    "message": self.message,
                    "type": self.kind.openai(),
                    "param": self.param,
                    "code": self.code,
                }
            }),
            Dialect::Anthropic => {
                json!({ "type": "error", "error": { "type": self.kind.anthropic(), "message": self.message } })
            }
            Dialect::Ollama => json!({ "error": self.message }),
        }
    }

    pub(crate) fn respond(&self, dialect: Dialect) -> Response {
        let mut response = (self.kind.status(), axum::Json(self.body(dialect))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whose words a request and its answer are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// The dialect of a path.
    pub(crate) fn of(path: &str) -> Dialect {
        if path.starts_with("/v1/messages") || path.starts_with("/anthropic/") {
            Dialect::Anthropic
        } else if path.starts_with("/api/") || path == "/" {
            Dialect::Ollama
        } else {
            Dialect::OpenAi
        }
    }
}

/// Written by the outermost layer, which knows the dialect from the path.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<allod_engine::engine::Failure> for ApiError {
    fn from(failure: allod_engine::engine::Failure) -> ApiError {
        use allod_engine::Error;
        use allod_engine::engine::Failure;
        let message = failure.to_string();
        match failure {
            Failure::Request(Error::PromptTooLong { .. }) => {
                ApiError::invalid(message).with_code("context_length_exceeded")
            }
            Failure::Request(Error::Params(e)) => ApiError { param: Some(e.name.into()), ..ApiError::invalid(message) },
            Failure::Request(Error::EmptyPrompt | Error::UnknownToken { .. }) => ApiError::invalid(message),
            Failure::Request(Error::NoPages { .. }) | Failure::QueueFull { .. } | Failure::Stopped => {
                ApiError { retry_after: Some(1), ..ApiError::new(Kind::Overloaded, message) }
            }
            Failure::TextTooLong { .. } => ApiError::invalid(message).with_code("context_length_exceeded"),
            Failure::Answers { .. }
            | Failure::PromptLogprobs { .. }
            | Failure::Task { .. }
            | Failure::Adapter(_)
            | Failure::NoAdapter => ApiError::invalid(message),
            Failure::Deadline { .. } => ApiError::new(Kind::Timeout, message),
            Failure::Request(_) => ApiError::internal(message),
        }
    }
}
