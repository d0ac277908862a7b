// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pictures, as SVG.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use crate::data::Data;
use crate::samples::Pieces;

const SIZE: (u32, u32) = (960, 420);
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const COLOURS: [RGBColor; 6] = [
    OURS,
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
];

type Svg<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn picture(
    size: (u32, u32),
    draw: impl FnOnce(&Svg<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    draw(&area).and_then(|()| Ok(area.present()?)).map_err(|error| error.to_string())?;
    drop(area);
    Ok(svg)
}

/// Bounds around figures, for an axis of powers.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(f64::NEG_INFINITY, f64::max);
    least * 0.8..most * 1.25
}

struct Lines<'a> {
    x: &'a str,
    y: &'a str,
    series: Vec<(&'a str, Vec<(f64, f64)>)>,
}

fn number(value: &f64) -> String {
    match *value {
        v if v >= 1e9 => format!("{:.1}G", v / 1e9),
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 10.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

/// Lines with points on any two axes.
fn plot<X, Y>(area: &Svg<'_>, lines: &Lines<'_>, x: X, y: Y) -> Result<(), Box<dyn std::error::Error>>
where
    X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart =
        ChartBuilder::on(area).margin(15).x_label_area_size(45).y_label_area_size(75).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(lines.x)
        .y_desc(lines.y)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .label_style(("sans-serif", 14))
        .draw()?;
    for ((name, points), colour) in lines.series.iter().zip(COLOURS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    if lines.series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
    }
    Ok(())
}

fn some(what: bool, needs: &str) -> Result<(), String> {
    if what { Ok(()) } else { Err(format!("{needs} is not there")) }
}

/// Linux's figure divided by ours, a bar each.
pub(crate) fn ratios(data: &Data) -> Result<String, String> {
    let mut bars: Vec<(&str, f64)> = Vec::new();
    for ours in data.target.iter().filter(|figure| figure.unit == "instructions" && figure.value > 0.0) {
        if let Some(lean) = data.linux(&ours.name).and_then(|row| row.lean) {
            bars.push((&ours.name, lean / ours.value));
        }
    }
    some(!bars.is_empty(), "target.jsonl")?;
    let (row, left) = (15, 220);
    let height = 60 + row * bars.len() as i32;
    let most = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let least = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::min).min(0.5);
    let at = |ratio: f64| left + ((ratio / least).ln() / (most / least).ln() * 660.0) as i32;
    picture((960, height as u32), |area| {
        let font = ("sans-serif", 12).into_font();
        for tick in [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0]
            .into_iter()
            .filter(|tick| (least..=most).contains(tick))
        {
            area.draw(&PathElement::new(
                [(at(tick), 25), (at(tick), height - 20)],
                BLACK.mix(if tick == 1.0 { 0.8 } else { 0.15 }),
            ))?;
            area.draw(&Text::new(format!("{tick}x"), (at(tick) - 8, 8), font.clone()))?;
        }
        for (index, (name, ratio)) in (0..).zip(&bars) {
            let top = 30 + row * index;
            let colour = if *ratio >= 1.0 { OURS } else { COLOURS[3] };
            area.draw(&Text::new((*name).to_owned(), (5, top), font.clone()))?;
            let (from, to) = (at(ratio.min(1.0)), at(ratio.max(1.0)).max(at(1.0) + 1));
            area.draw(&Rectangle::new([(from, top + 1), (to, top + row - 3)], colour.filled()))?;
            area.draw(&Text::new(format!("{ratio:.1}"), (to + 5, top), font.clone()))?;
        }
        Ok(())
    })
}

pub(crate) fn latencies(data: &Data) -> Result<String, String> {
    let series: Vec<_> = data
        .histograms
        .iter()
        .map(|(name, counts)| {
            (
                name.as_str(),
                counts.iter().map(|(from, count)| (f64::from((*from).max(1)), f64::from(*count))).collect::<Vec<_>>(),
            )
        })
        .collect();
    let all = || series.iter().flat_map(|(_, points)| points.iter().copied());
    some(all().next().is_some(), "a histogram in target.log")?;
    let (x, y) = (bounds(all().map(|(x, _)| x)), bounds(all().map(|(_, y)| y)));
    let lines = Lines { x: "instructions", y: "operations", series };
    picture(SIZE, |area| plot(area, &lines, x.log_scale(), y.log_scale()))
}

/// A line a sample, a box a stretch.
pub(crate) fn churn(data: &Data) -> Result<String, String> {
    some(!data.churn.is_empty(), "churn.txt")?;
    let step = data.churn.len().div_ceil(60);
    let rows: Vec<_> = data.churn.iter().step_by(step).collect();
    let height = 10 * rows.len() as i32;
    picture((960, height as u32 + 30), |area| {
        for (index, sample) in (0..).zip(&rows) {
            let cells: Vec<_> = sample.zones.iter().flat_map(|zone| &zone.map).collect();
            let width = 900.0 / cells.len().max(1) as f64;
            for (at, cell) in cells.iter().enumerate() {
                let Some(share) = cell.share() else { continue };
                let colour = match cell.pieces() {
                    Pieces::Largest => RGBColor(0x2c, 0xa0, 0x2c),
                    Pieces::Some => RGBColor(0xe8, 0xb0, 0x10),
                    Pieces::Small => RGBColor(0xc0, 0x30, 0x30),
                };
                let x = |at: usize| 55 + (at as f64 * width) as i32;
                let box_ = [(x(at), 10 * index), (x(at + 1), 10 * index + 9)];
                area.draw(&Rectangle::new(box_, colour.mix(0.25 + f64::from(share) / 20.0).filled()))?;
            }
            if index % 5 == 0 {
                area.draw(&Text::new(
                    format!("{:.1} s", sample.number as f64 / 2.0),
                    (5, 10 * index),
                    ("sans-serif", 12).into_font(),
                ))?;
            }
        }
        area.draw(&Text::new("first frame", (55, height + 8), ("sans-serif", 13).into_font()))?;
        area.draw(&Text::new("last frame", (890, height + 8), ("sans-serif", 13).into_font()))?;
        Ok(())
    })
}

pub(crate) fn scaling(data: &Data) -> Result<String, String> {
    some(!data.scaling.is_empty(), "scaling.txt")?;
    let most = data.scaling.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let lines = Lines { x: "emulated CPUs", y: "operations a second", series: vec![("Quire", data.scaling.clone())] };
    picture(SIZE, |area| plot(area, &lines, 0.0..9.0, 0.0..most * 1.15))
}

pub(crate) fn overhead(data: &Data) -> Result<String, String> {
    some(!data.caches.is_empty(), "slabinfo in churn.txt")?;
    let percent: Vec<_> = data.caches.iter().map(|(size, each)| (*size, (each / size - 1.0) * 100.0)).collect();
    let x = bounds(percent.iter().map(|(size, _)| *size));
    let most = percent.iter().map(|(_, share)| *share).fold(1.0, f64::max);
    let lines = Lines { x: "bytes of an object", y: "overhead in per cent", series: vec![("caches", percent)] };
    picture(SIZE, |area| plot(area, &lines, x.log_scale(), 0.0..most * 1.15))
}

pub(crate) fn boot(data: &Data) -> Result<String, String> {
    some(!data.boot.is_empty(), "boot.txt")?;
    let (x, y) = (bounds(data.boot.iter().map(|(mib, _)| *mib)), bounds(data.boot.iter().map(|(_, count)| *count)));
    let lines = Lines { x: "MiB of RAM", y: "instructions", series: vec![("Quire", data.boot.clone())] };
    picture(SIZE, |area| plot(area, &lines, x.log_scale(), y.log_scale()))
}
