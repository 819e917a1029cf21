use allod_eval::{Point, plot};

/// The numbers of every attribute `name` of elements that start with `<element`.
fn numbers(svg: &str, element: &str, name: &str) -> Vec<f64> {
    let lines = svg.lines().filter(|l| l.starts_with(&format!("<{element} ")));
    lines.map(|l| l.split_once(&format!(" {name}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn larger_is_further_right_and_worse_is_higher() {
    let point = |label: &str, bytes, kl| Point { label: label.into(), bytes, kl, error: kl / 50.0 };
    let points =
        [point("small & bad", 1_000_000, 0.5), point("<middle>", 2_000_000, 0.02), point("good", 4_000_000, 0.0)];
    let svg = plot("a < b", &points);
    let (x, y) = (numbers(&svg, "circle", "cx"), numbers(&svg, "circle", "cy"));
    assert!(x[0] < x[1] && x[1] < x[2] && y[0] < y[1] && y[1] < y[2], "{x:?} {y:?}");
    // On a straight scale of sizes the middle lies a third of the way.
    assert!(((x[1] - x[0]) / (x[2] - x[0]) - 1.0 / 3.0).abs() < 0.01);
    assert!(svg.contains("small &amp; bad") && svg.contains("&lt;middle&gt;") && svg.contains("a &lt; b"));
    assert!(x.iter().chain(&y).all(|v| v.is_finite() && *v > 0.0 && *v < 720.0));
    assert!(plot("nothing", &[]).ends_with("</svg>\n"));
}
