//! A plot of figures against bits, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

/// Width and height of a chart, in pixels.
const SIZE: (u32, u32) = (800, 560);
const TEXT_SIZE: u32 = 16;
/// Colours that stay apart for the colour-blind, dark enough for white (Okabe and Ito's blue, vermilion and green).
const COLORS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115)];

/// What drawing in memory may fail with.
type DrawingFault = DrawingAreaErrorKind<std::io::Error>;

/// A chart of the plot: one figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What the figure is called.
    pub figure: String,
    /// The curves, each of which has its colour in all charts.
    pub curves: Vec<Curve>,
}

/// A curve of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What the legend calls it.
    pub name: String,
    /// Bits read of each weight, and the figure there; in any order.
    pub points: Vec<(f64, f64)>,
}

/// The plot of the charts beside each other, with logarithmic axes of their figures; what was wrong where a chart has
/// nothing to draw.
///
/// Points whose figure is no positive finite number are left out, and so are curves without a point; those after them
/// keep their colours.
pub fn plot(title: &str, charts: &[Chart]) -> Result<String, String> {
    let drawable = |curve: &Curve| {
        let mut points = curve.points.clone();
        points.retain(|(_, figure)| figure.is_finite() && *figure > 0.0);
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: curve.name.clone(), points }
    };
    let charts: Vec<Chart> = charts
        .iter()
        .map(|chart| Chart { figure: chart.figure.clone(), curves: chart.curves.iter().map(drawable).collect() })
        .collect();
    if let Some(chart) = charts.iter().find(|chart| chart.curves.iter().all(|curve| curve.points.is_empty())) {
        return Err(format!("no {} is a finite number", chart.figure));
    }
    let mut svg = String::new();
    draw_all(&mut svg, title, &charts).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw_all(svg: &mut String, title: &str, charts: &[Chart]) -> Result<(), DrawingFault> {
    let root = SVGBackend::with_string(svg, (SIZE.0 * charts.len() as u32, SIZE.1)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, chart) in root.split_evenly((1, charts.len())).iter().zip(charts) {
        draw(area, title, chart)?;
    }
    root.present()
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, chart: &Chart) -> Result<(), DrawingFault> {
    let figures = chart.curves.iter().flat_map(|curve| curve.points.iter().map(|(_, figure)| *figure));
    let (low, high) = figures.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
    let (low, high) = (low / 1.1, high * 1.1);
    let font = |size: u32| ("sans-serif", size).into_font();
    let y_axis = (low..high).log_scale().with_key_points(ticks(low, high));
    let mut drawn = ChartBuilder::on(area)
        .caption(title, font(TEXT_SIZE + 2))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(1.75..8.25f64, y_axis)?;
    drawn
        .configure_mesh()
        .x_desc("bits read of each weight, on average")
        .y_desc(format!("{} (logarithmic)", chart.figure))
        .x_labels(7)
        .x_label_formatter(&|bits| format!("{bits:.0}"))
        .y_label_formatter(&|figure| number(*figure))
        .label_style(font(TEXT_SIZE - 2))
        .axis_desc_style(font(TEXT_SIZE))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let colored = chart.curves.iter().zip(COLORS.iter().cycle());
    for (Curve { name, points }, color) in colored.filter(|(curve, _)| !curve.points.is_empty()) {
        let style = color.stroke_width(2);
        drawn
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 20, y + 2)], color.filled()));
        drawn.draw_series(points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
    }
    drawn
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.4))
        .label_font(font(TEXT_SIZE))
        .draw()
}

/// Marks between `low` and `high`: 1, 2 and 5 times the powers of ten, or every power where those would be many, or
/// steps of a tenth of the power where they would be few.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    const MOST: usize = 16;
    let powers = || (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|power| 10f64.powi(power));
    let at = |steps: &[f64]| -> Vec<f64> {
        let marks = powers().flat_map(|power| steps.iter().map(move |step| power * step));
        marks.filter(|mark| (low..=high).contains(mark)).collect()
    };
    let fine: Vec<f64> = (10..100).map(|tenth| f64::from(tenth) / 10.0).collect();
    let whole: Vec<f64> = (1..10).map(f64::from).collect();
    let choices = [at(&fine), at(&whole), at(&[1.0, 2.0, 5.0]), at(&[1.0])];
    choices.into_iter().find(|marks| marks.len() <= MOST).unwrap_or_else(|| at(&[1.0]))
}

/// A figure, as short as its size allows.
fn number(value: f64) -> String {
    match value {
        _ if value >= 1e5 => format!("{value:.0e}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 1.0 => format!("{}", (value * 10.0).round() / 10.0),
        // Marks have one or two digits that count.
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perplexities(curves: &[Curve]) -> [Chart; 1] {
        [Chart { figure: "perplexity".into(), curves: curves.to_vec() }]
    }

    fn curve(name: &str, points: &[(f64, f64)]) -> Curve {
        Curve { name: name.into(), points: points.to_vec() }
    }

    #[test]
    fn every_curve_is_a_line_with_its_points_and_its_name() {
        let curves = [
            curve("routed", &[(4.0, 27.0), (2.6, 71.0), (8.0, 25.0)]),
            curve("shuffled", &[(2.6, 130.0), (4.0, 29.0)]),
            curve("uniform depth", &[(2.0, 3e6), (4.0, 38.0), (6.0, 25.6), (8.0, 25.0)]),
        ];
        let svg = plot("A model <here> & now", &perplexities(&curves)).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let colors = COLORS.map(|RGBColor(r, g, b)| format!("#{r:02X}{g:02X}{b:02X}"));
        for (curve, color) in curves.iter().zip(&colors) {
            let has = |name: &str, attribute: &str| {
                let is = move |node: &roxmltree::Node<'_, '_>| node.attribute(attribute) == Some(color.as_str());
                document.descendants().filter(|node| node.has_tag_name(name)).filter(is).collect::<Vec<_>>()
            };
            let lines = has("polyline", "stroke");
            assert_eq!(lines.len(), 1, "{}", curve.name);
            let points: Vec<&str> = lines[0].attribute("points").unwrap().split_whitespace().collect();
            assert_eq!(points.len(), curve.points.len());
            let x = |point: &str| point.split(',').next().unwrap().parse::<i32>().unwrap();
            assert!(points.windows(2).all(|w| x(w[0]) < x(w[1])), "from few bits to many: {points:?}");
            assert_eq!(has("circle", "fill").len(), curve.points.len());
        }
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for text in ["routed", "shuffled", "uniform depth", "perplexity (logarithmic)", "A model <here> & now", "3"] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn points_without_a_number_are_left_out() {
        let points = [(2.0, f64::INFINITY), (4.0, 30.0), (3.0, f64::NAN)];
        let svg = plot("", &perplexities(&[curve("none", &[]), curve("routed", &points)])).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("routed") && svg.contains("#D55E00") && !svg.contains("none\n"), "{svg}");
        assert!(plot("", &perplexities(&[curve("routed", &[(2.0, f64::NAN)])])).is_err());
    }

    #[test]
    fn charts_stand_beside_each_other_and_each_needs_a_figure() {
        let [perplexity] = perplexities(&[curve("routed", &[(4.0, 30.0), (8.0, 25.0)])]);
        let curves = vec![curve("routed", &[(4.0, 0.13), (8.0, 0.0012)])];
        let kl = Chart { figure: "KL divergence".into(), curves };
        let svg = plot("both", &[kl.clone(), perplexity]).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert_eq!(document.root_element().attribute("width"), Some("1600"));
        let lines = document.descendants().filter(|node| node.has_tag_name("polyline"));
        let first = |points: &str| points.split(',').next().unwrap().parse::<u32>().unwrap();
        let colored = lines.filter(|node| node.attribute("stroke") == Some("#0072B2"));
        let places: Vec<u32> = colored.map(|node| first(node.attribute("points").unwrap())).collect();
        assert!(matches!(places[..], [left, right] if left < SIZE.0 && right > SIZE.0), "{places:?}");
        assert!(svg.contains("KL divergence (logarithmic)") && svg.contains("perplexity (logarithmic)"));
        let error = plot("", &[kl, perplexities(&[]).into_iter().next().unwrap()]).unwrap_err();
        assert_eq!(error, "no perplexity is a finite number");
    }

    #[test]
    fn marks_are_few_and_round() {
        assert_eq!(ticks(20.0, 150.0), [20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0]);
        assert_eq!(ticks(24.5, 25.5), [25.0]);
        assert_eq!(ticks(20.0, 1e9), (2..=9).map(|power| 10f64.powi(power)).collect::<Vec<_>>());
        assert_eq!(ticks(20.0, 3e6).len(), 16);
        assert_eq!([number(25.04), number(1234.0), number(2e6)], ["25", "1234", "2e6"]);
        assert_eq!([number(0.1), number(0.002), number(0.00015)], ["0.1", "0.002", "0.00015"]);
    }
}
