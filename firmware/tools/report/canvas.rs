// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two kinds of pictures, as SVG: lines on two axes, and bars.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
pub(crate) const OTHER: RGBColor = RGBColor(0x8a, 0x93, 0x9c);
pub(crate) const WORSE: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
pub(crate) const MARK: RGBColor = RGBColor(0xe0, 0x7b, 0x00);
pub(crate) const COLOURS: [RGBColor; 6] =
    [OURS, MARK, RGBColor(0x2c, 0x96, 0x2c), WORSE, RGBColor(0x84, 0x5e, 0xad), RGBColor(0x7a, 0x4f, 0x42)];
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);

pub(crate) type Svg<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

pub(crate) fn picture(size: (u32, u32), draw: impl FnOnce(&Svg<'_>) -> Drawn) -> Result<String, String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    draw(&area).and_then(|()| Ok(area.present()?)).map_err(|error| error.to_string())?;
    drop(area);
    Ok(svg)
}

/// A font of so many of the page's pixels: plotters' own size is that of the line.
fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size * 5 / 4).into_font().color(&INK)
}

/// Text whose middle line is at `at`.
pub(crate) fn text(area: &Svg<'_>, words: &str, at: (i32, i32), size: i32, side: HPos) -> Drawn {
    Ok(area.draw_text(words, &font(size).pos(Pos::new(side, VPos::Center)), at)?)
}

/// A box, and what its colour means. Returns where the next one goes.
pub(crate) fn legend(
    area: &Svg<'_>,
    colour: RGBAColor,
    words: &str,
    at: (i32, i32),
) -> Result<i32, Box<dyn std::error::Error>> {
    area.draw(&Rectangle::new([(at.0, at.1 - 6), (at.0 + 14, at.1 + 6)], colour.filled()))?;
    text(area, words, (at.0 + 20, at.1), 13, HPos::Left)?;
    Ok(at.0 + 44 + words.len() as i32 * 8)
}

pub(crate) fn number(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1}G", v / 1e9),
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A figure on an axis of powers: none that would stand too near to the next.
pub(crate) fn power(value: &f64) -> String {
    let digit = value / 10_f64.powf(value.log10().floor());
    if [1.0, 2.0, 5.0].iter().any(|one| (digit - one).abs() < 1e-6) { number(*value) } else { String::new() }
}

/// A share as per cent.
pub(crate) fn share(value: &f64) -> String {
    let percent = value * 100.0;
    if percent >= 1.0 { format!("{percent:.0} %") } else { format!("{} %", (percent * 1e6).round() / 1e6) }
}

/// Bounds around figures, for an axis of powers.
pub(crate) fn bounds(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(f64::NEG_INFINITY, f64::max);
    least * 0.8..most * 1.25
}

pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: RGBColor,
    /// Of somebody else: dashed.
    pub(crate) is_dashed: bool,
}

pub(crate) struct Lines<'a> {
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) x_label: fn(&f64) -> String,
    pub(crate) y_label: fn(&f64) -> String,
    pub(crate) legend: SeriesLabelPosition,
    pub(crate) series: Vec<Series>,
}

/// Lines with points on any two axes.
pub(crate) fn lines<X, Y>(area: &Svg<'_>, lines: &Lines<'_>, x: X, y: Y) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let font = font(13);
    let mut chart =
        ChartBuilder::on(area).margin(14).x_label_area_size(48).y_label_area_size(78).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .x_desc(lines.x)
        .y_desc(lines.y)
        .x_label_formatter(&lines.x_label)
        .y_label_formatter(&lines.y_label)
        .label_style(font.clone())
        .axis_desc_style(font.clone())
        .draw()?;
    for Series { name, points, colour, is_dashed } in &lines.series {
        let style = colour.stroke_width(2);
        let drawn = if *is_dashed {
            chart.draw_series(DashedLineSeries::new(points.iter().copied(), 6, 4, style))?
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?
        };
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        let size = if points.len() > 60 { 1 } else { 3 };
        chart.draw_series(points.iter().map(|point| Circle::new(*point, size, colour.filled())))?;
    }
    if lines.series.len() > 1 {
        chart
            .configure_series_labels()
            .position(lines.legend.clone())
            .margin(12)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.25))
            .label_font(font)
            .draw()?;
    }
    Ok(())
}

/// A bar, and a dot where somebody else's would end.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) mark: Option<f64>,
    pub(crate) colour: RGBAColor,
}

pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) axis: &'a str,
    /// Where bars begin; the axis's end if `None`.
    pub(crate) from: Option<f64>,
    pub(crate) width: u32,
    pub(crate) names: i32,
    pub(crate) unit: &'a str,
    pub(crate) bars: Vec<Bar>,
}

const ROW: i32 = 18;
const TOP: i32 = 50;

/// Bars on an axis of powers, one below the other.
pub(crate) fn bars(bars: &Bars<'_>) -> Result<String, String> {
    let values = || bars.bars.iter().flat_map(|bar| std::iter::once(bar.value).chain(bar.mark)).chain(bars.from);
    let range = bounds(values());
    // Half of the least, so that the shortest bar can be seen.
    let range = if bars.from.is_some() { range } else { range.start / 1.6..range.end };
    let (bottom, right) = (TOP + ROW * bars.bars.len() as i32, bars.width as i32 - 64);
    let scale = f64::from(right - bars.names) / (range.end / range.start).ln();
    let at = |value: f64| bars.names + ((value / range.start).ln() * scale).round() as i32;
    let powers = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    let few = (range.end / range.start) > 300.0;
    let ticks = powers.filter(|tick| range.contains(tick) && (!few || tick.log10().fract().abs() < 1e-9));
    picture((bars.width, (bottom + 34) as u32), |area| {
        text(area, bars.title, (8, 14), 16, HPos::Left)?;
        for tick in ticks {
            let strong = if bars.from == Some(tick) { 0.7 } else { 0.14 };
            area.draw(&PathElement::new([(at(tick), TOP - 6), (at(tick), bottom + 2)], BLACK.mix(strong)))?;
            text(area, &format!("{}{}", number(tick), bars.unit), (at(tick), TOP - 15), 12, HPos::Center)?;
        }
        text(area, bars.axis, ((bars.names + right) / 2, bottom + 18), 13, HPos::Center)?;
        for (index, bar) in (0..).zip(&bars.bars) {
            let middle = TOP + ROW * index + ROW / 2;
            text(area, &bar.name, (bars.names - 8, middle), 13, HPos::Right)?;
            let from = bars.from.map_or(bars.names, at);
            let (left, end) = (from.min(at(bar.value)), from.max(at(bar.value)).max(from + 1));
            area.draw(&Rectangle::new([(left, middle - 6), (end, middle + 6)], bar.colour.filled()))?;
            let mut beside = end;
            if let Some(mark) = bar.mark {
                area.draw(&Circle::new((at(mark), middle), 4, MARK.filled()))?;
                beside = beside.max(at(mark) + 4);
            }
            text(area, &format!("{}{}", number(bar.value), bars.unit), (beside + 6, middle), 12, HPos::Left)?;
        }
        Ok(())
    })
}
