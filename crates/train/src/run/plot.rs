//! Curves: in the terminal with braille dots, in a report as SVG.

use std::fmt::Write;

/// A curve: points with x ascending.
pub type Curve = Vec<(f64, f64)>;

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    (low <= high).then_some(if high - low < 1e-12 { (low - 0.5, high + 0.5) } else { (low, high) })
}

/// The curve in `width × height` characters, with its least and greatest value at the left.
pub fn braille(curve: &[(f64, f64)], width: usize, height: usize) -> String {
    let (Some((x0, x1)), Some((y0, y1))) = (bounds(curve.iter().map(|p| p.0)), bounds(curve.iter().map(|p| p.1)))
    else {
        return String::new();
    };
    let (columns, rows) = (width * 2, height * 4);
    let mut dots = vec![0u8; width * height];
    for &(x, y) in curve.iter().filter(|p| p.1.is_finite()) {
        let column = ((x - x0) / (x1 - x0) * (columns - 1) as f64).round() as usize;
        let row = ((y1 - y) / (y1 - y0) * (rows - 1) as f64).round() as usize;
        let bit = [[0, 1, 2, 6], [3, 4, 5, 7]][column % 2][row % 4];
        dots[row / 4 * width + column / 2] |= 1 << bit;
    }
    let mut out = String::new();
    for (i, line) in dots.chunks(width).enumerate() {
        let label = match i {
            0 => format!("{y1:8.4}"),
            _ if i == height - 1 => format!("{y0:8.4}"),
            _ => " ".repeat(8),
        };
        let cells: String = line.iter().map(|&d| char::from_u32(0x2800 + u32::from(d)).unwrap_or(' ')).collect();
        let _ = writeln!(out, "{label} ┤{cells}");
    }
    out
}

/// A report of several panels, each a title and named curves.
pub fn svg(title: &str, panels: &[(&str, Vec<(&str, Curve)>)]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 220.0;
    const COLOURS: [&str; 4] = ["#1f5fbf", "#c2410c", "#15803d", "#7e22ce"];
    let total = 40.0 + panels.len() as f64 * (HEIGHT + 50.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 {total:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"20\" y=\"24\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for (i, (name, curves)) in panels.iter().enumerate() {
        let top = 50.0 + i as f64 * (HEIGHT + 50.0);
        let all = || curves.iter().flat_map(|c| &c.1);
        let (Some((x0, x1)), Some((y0, y1))) = (bounds(all().map(|p| p.0)), bounds(all().map(|p| p.1))) else {
            continue;
        };
        let _ = writeln!(out, "<text x=\"80\" y=\"{:.1}\" font-weight=\"bold\">{}</text>", top, escaped(name));
        let top = top + 8.0;
        let _ = writeln!(
            out,
            "<rect x=\"80\" y=\"{top:.1}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>"
        );
        for (value, y) in [(y1, top + 10.0), (y0, top + HEIGHT)] {
            let _ = writeln!(out, "<text x=\"74\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", short(value));
        }
        for (value, x) in [(x0, 80.0), (x1, 80.0 + WIDTH)] {
            let y = top + HEIGHT + 16.0;
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", short(value));
        }
        for (n, (label, curve)) in curves.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let points: Vec<String> = curve
                .iter()
                .filter(|p| p.1.is_finite())
                .map(|(x, y)| {
                    let (x, y) = ((x - x0) / (x1 - x0) * WIDTH + 80.0, (y1 - y) / (y1 - y0) * HEIGHT + top);
                    format!("{x:.1},{y:.1}")
                })
                .collect();
            let points = points.join(" ");
            let _ =
                writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>");
            let (x, y) = (700.0, top + 18.0 + 16.0 * n as f64);
            let _ = writeln!(out, "<text x=\"{x:.0}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>", escaped(label));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn short(v: f64) -> String {
    if v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e5) {
        format!("{v:.2e}")
    } else {
        format!("{}", (v * 1e4).round() / 1e4)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
