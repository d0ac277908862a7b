// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a sample looks on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table};

use crate::samples::{Cell, Pieces, Sample};

/// What is shown beside the sample.
#[derive(Default, Debug)]
pub(crate) struct Around {
    /// The last lines of the console.
    pub(crate) console: Vec<String>,
    /// What is being typed.
    pub(crate) typed: String,
    /// Whether nothing more comes.
    pub(crate) is_over: bool,
}

/// Draws one screen. `before` is the sample before this one, for what changes.
pub(crate) fn draw(frame: &mut Frame<'_>, sample: Option<&Sample>, before: Option<&Sample>, around: &Around) {
    let Some(sample) = sample else {
        let waiting = if around.is_over {
            "nothing came: does the target run with log=defmt top=500?"
        } else {
            "waiting for records"
        };
        let [text, console] = Layout::vertical([Constraint::Length(1), Constraint::Min(3)]).areas(frame.area());
        frame.render_widget(Paragraph::new(waiting), text);
        draw_console(frame, console, around);
        return;
    };
    let nr_zones = sample.zones.len() as u16;
    let width = usize::from(frame.area().width.max(1));
    let map_lines: u16 = sample.zones.iter().map(|zone| zone.map.len().div_ceil(width) as u16 + 1).sum();
    let [zones, map, middle, console] = Layout::vertical([
        Constraint::Length(nr_zones + 2),
        Constraint::Length(map_lines),
        Constraint::Min(6),
        Constraint::Length(8),
    ])
    .areas(frame.area());
    draw_zones(frame, zones, sample, around.is_over);
    draw_maps(frame, map, sample, width);
    let [caches, rest] = Layout::horizontal([Constraint::Min(50), Constraint::Length(40)]).areas(middle);
    draw_caches(frame, caches, sample);
    draw_rest(frame, rest, sample, before);
    draw_console(frame, console, around);
}

fn draw_zones(frame: &mut Frame<'_>, area: Rect, sample: &Sample, is_over: bool) {
    let header =
        ["zone", "MiB", "free", "%"].map(str::to_owned).into_iter().chain((0..11).map(|order| format!("o{order}")));
    let rows = sample.zones.iter().map(|zone| {
        let percent = (zone.free_pages * 100).checked_div(zone.managed_pages).unwrap_or(0);
        let mib = |pages: u64| (pages / 256).to_string();
        let left = [
            format!("{} {}", zone.node, zone.kind),
            mib(zone.managed_pages),
            mib(zone.free_pages),
            percent.to_string(),
        ];
        Row::new(left.into_iter().chain(zone.blocks.iter().map(u64::to_string)))
    });
    let widths = [9, 7, 7, 3].into_iter().chain([6; 11]).map(Constraint::Length);
    let state = if is_over { ", and the line is closed" } else { "" };
    let title = format!("sample {}{state}; {} pages in hoards", sample.number, sample.hoarded_pages);
    let header = Row::new(header).style(Style::new().fg(Color::Cyan));
    frame.render_widget(Table::new(rows, widths).header(header).block(Block::new().title(title)), area);
}

/// Green: a block of the largest order. Yellow: of four pages and more. Red: less. Higher: more is free.
fn span(cell: Cell) -> Span<'static> {
    let Some(share) = cell.share() else { return Span::raw(" ") };
    let shade = match share {
        0 => ".",
        1..=3 => "▂",
        4..=7 => "▄",
        8..=11 => "▆",
        _ => "█",
    };
    let colour = match cell.pieces() {
        Pieces::Largest => Color::Green,
        Pieces::Some => Color::Yellow,
        Pieces::Small => Color::Red,
    };
    Span::styled(shade, Style::new().fg(colour))
}

fn draw_maps(frame: &mut Frame<'_>, area: Rect, sample: &Sample, width: usize) {
    let mut lines = Vec::new();
    for zone in &sample.zones {
        lines.push(Line::styled(
            format!("where zone {} {} is free", zone.node, zone.kind),
            Style::new().fg(Color::Cyan),
        ));
        lines.extend(zone.map.chunks(width).map(|cells| cells.iter().map(|cell| span(*cell)).collect::<Line<'_>>()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_caches(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let mut caches: Vec<_> = sample.caches.iter().collect();
    caches.sort_by_key(|cache| std::cmp::Reverse(cache.slabs * cache.pages_per_slab));
    let rows = caches.into_iter().map(|cache| {
        let kib = cache.slabs * cache.pages_per_slab * 4;
        let use_ = (cache.active * 100).checked_div(cache.objects).unwrap_or(0);
        let numbers = [cache.active, cache.objects, use_, cache.size, cache.slabs, kib];
        Row::new(std::iter::once(cache.name.clone()).chain(numbers.iter().map(u64::to_string)))
    });
    let header =
        Row::new(["cache", "active", "objects", "%", "size", "slabs", "KiB"]).style(Style::new().fg(Color::Cyan));
    let widths = [16, 8, 8, 3, 5, 6, 7].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn draw_rest(frame: &mut Frame<'_>, area: Rect, sample: &Sample, before: Option<&Sample>) {
    let vmalloc = &sample.vmalloc;
    let mut lines = vec![Line::styled("vmalloc", Style::new().fg(Color::Cyan))];
    let numbers = [
        ("areas", vmalloc.areas),
        ("pages", vmalloc.pages),
        ("lazy pages", vmalloc.lazy_pages),
        ("frames of tags", vmalloc.tag_frames),
    ];
    lines.extend(numbers.map(|(name, count)| Line::raw(format!("{name:<24}{count:>8}"))));
    lines.push(Line::styled(format!("{:<24}{:>8}{:>7}", "TLB", "", "new"), Style::new().fg(Color::Cyan)));
    for (name, count) in &sample.tlb {
        let earlier = before.and_then(|before| before.tlb.iter().find(|(other, _)| other == name));
        let new = count.saturating_sub(earlier.map_or(*count, |(_, earlier)| *earlier));
        let name = name.trim_start_matches("nr_tlb_");
        lines.push(Line::raw(format!("{name:<24}{count:>8}{new:>7}")));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_console(frame: &mut Frame<'_>, area: Rect, around: &Around) {
    let title = "console: type a command and Enter; Esc leaves";
    let block = Block::bordered().title(title);
    let room = usize::from(area.height.saturating_sub(3));
    let last = around.console.iter().rev().take(room).rev().map(|line| Line::raw(line.clone()));
    let lines: Vec<_> = last.chain([Line::raw(format!("> {}", around.typed))]).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tests::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(width: u16, height: u16, sample: Option<&Sample>, around: &Around) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut before = sample.cloned();
        if let Some(before) = &mut before {
            before.tlb[0].1 = 5;
        }
        terminal.draw(|frame| draw(frame, sample, before.as_ref(), around)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_screen_has_all_of_it() {
        let around = Around { console: vec!["quire> free".to_owned()], typed: "meminfo".to_owned(), is_over: false };
        let screen = screen(110, 30, Some(&sample()), &around);
        for words in [
            "sample 5; 415 pages in hoards",
            "0 Normal  510     484     94  31     114    190",
            "where zone 0 Normal is free",
            "▆▆. ███",
            "kmalloc-packed   152      152      100 1096  57     228",
            "lazy pages                     7",
            "remote_flush                  12      7",
            "quire> free",
            "> meminfo",
        ] {
            assert!(screen.contains(words), "no {words:?} in\n{screen}");
        }
    }

    #[test]
    fn nothing_yet_and_small_terminals_are_no_trouble() {
        assert!(screen(80, 24, None, &Around::default()).contains("waiting for records"));
        for (width, height) in [(1, 1), (20, 5), (80, 3), (300, 2)] {
            screen(width, height, Some(&sample()), &Around::default());
        }
    }
}
