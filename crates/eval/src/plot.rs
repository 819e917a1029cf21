//! A picture of what bits buy: sizes to the right, divergence upwards on a logarithmic scale.

use std::fmt::Write;

/// A model in the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What stands beside it.
    pub label: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its divergence in nats and the standard error.
    pub kl: f64,
    /// Standard error of the divergence.
    pub error: f64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Where values lie in the picture.
struct Axes {
    bytes: (f64, f64),
    /// Powers of ten.
    kl: (f64, f64),
}

impl Axes {
    fn of(points: &[Point]) -> Axes {
        let most = points.iter().map(|p| p.bytes as f64).fold(1.0, f64::max);
        let least = points.iter().map(|p| p.bytes as f64).fold(most, f64::min);
        let margin = (most - least).max(most * 0.05) * 0.08;
        let powers = || points.iter().map(|p| libm::log10(p.kl.max(1e-9)));
        let (low, high) = (powers().fold(f64::INFINITY, f64::min), powers().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low.is_finite() { (libm::floor(low), libm::ceil(high)) } else { (-3.0, 0.0) };
        Axes { bytes: (least - margin, most + margin), kl: (low, high.max(low + 1.0)) }
    }

    fn x(&self, bytes: f64) -> f64 {
        LEFT + (bytes - self.bytes.0) / (self.bytes.1 - self.bytes.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, kl: f64) -> f64 {
        let share = (libm::log10(kl.max(1e-9)) - self.kl.0) / (self.kl.1 - self.kl.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An SVG picture of the models; readable in light and dark pages.
pub fn plot(title: &str, points: &[Point]) -> String {
    let axes = Axes::of(points);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    grid(&mut s, &axes);
    for p in points {
        let (x, y) = (axes.x(p.bytes as f64), axes.y(p.kl));
        let (low, high) = (axes.y(p.kl - p.error), axes.y(p.kl + p.error));
        // Writing to a String cannot fail.
        let _ = writeln!(s, "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"#06c\"/>");
        let _ = writeln!(s, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#06c\"/>");
        let _ = writeln!(s, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 7.0, y - 5.0, escaped(&p.label));
    }
    s + "</svg>\n"
}

fn grid(s: &mut String, axes: &Axes) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for power in axes.kl.0 as i32..=axes.kl.1 as i32 {
        let y = axes.y(libm::pow(10.0, f64::from(power)));
        let _ = writeln!(s, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(s, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">1e{power}</text>", LEFT - 6.0, y + 4.0);
    }
    for i in 0..5 {
        let bytes = axes.bytes.0 + (axes.bytes.1 - axes.bytes.0) * f64::from(i) / 4.0;
        let x = axes.x(bytes);
        let _ = writeln!(s, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#eee\"/>");
        let _ =
            writeln!(s, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", bottom + 18.0, size(bytes));
    }
    let middle = (LEFT + right) / 2.0;
    let _ = writeln!(s, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">size of the file</text>", HEIGHT - 12.0);
    let y = (TOP + bottom) / 2.0;
    let turned = format!("transform=\"rotate(-90 16 {y})\" text-anchor=\"middle\"");
    let _ = writeln!(s, "<text x=\"16\" y=\"{y}\" {turned}>KL divergence, nats a token</text>");
}

fn size(bytes: f64) -> String {
    match bytes {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}
