//! What egui has no widget for: text coloured by bits, graphs, and a picture of the memory.

use eframe::egui::text::{LayoutJob, TextFormat};
use eframe::egui::{Align2, Color32, FontId, Pos2, Rect, Sense, Shape, Stroke, Ui, Vec2, pos2, vec2};

use crate::worker::AnswerToken;

/// Height of a graph.
const HEIGHT: f32 = 70.0;

/// From blue at 2 bits over green to red at 8.
pub fn colour_of(bits: f32) -> Color32 {
    let share = ((bits - 2.0) / 6.0).clamp(0.0, 1.0);
    let (low, middle, high) = ([70.0, 120.0, 255.0], [90.0, 200.0, 120.0], [250.0, 110.0, 80.0]);
    let (from, to, part) = if share < 0.5 { (low, middle, share * 2.0) } else { (middle, high, share * 2.0 - 1.0) };
    let mix = |at: usize| (from[at] + (to[at] - from[at]) * part) as u8;
    Color32::from_rgb(mix(0), mix(1), mix(2))
}

/// The answer's text, each token in the colour of its bits.
pub fn answer(ui: &mut Ui, tokens: &[AnswerToken]) {
    let mut job = LayoutJob::default();
    job.wrap.max_width = ui.available_width();
    for token in tokens {
        job.append(&token.text, 0.0, TextFormat::simple(FontId::proportional(15.0), colour_of(token.bits)));
    }
    ui.label(job);
}

/// A graph of the last values, from zero to a bit above the highest.
pub fn graph(ui: &mut Ui, title: &str, values: &[f32], unit: &str) {
    let latest = values.last().map_or(String::new(), |value| format!("{value:.1} {unit}"));
    ui.label(format!("{title}  {latest}"));
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), HEIGHT), Sense::hover());
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 3.0, Color32::from_gray(24));
    let most = values.iter().copied().fold(0.0f32, f32::max) * 1.1;
    if most <= 0.0 {
        return;
    }
    let step = rect.width() / (values.len().max(2) - 1) as f32;
    let place =
        |(at, value): (usize, &f32)| pos2(rect.left() + at as f32 * step, rect.bottom() - rect.height() * value / most);
    let points: Vec<Pos2> = values.iter().enumerate().map(place).collect();
    painter.add(Shape::line(points, Stroke::new(1.5, Color32::from_rgb(120, 180, 250))));
    let font = FontId::monospace(10.0);
    painter.text(rect.left_top(), Align2::LEFT_TOP, format!("{most:.0} {unit}"), font, Color32::from_gray(140));
}

/// The model's memory on the device: the base with what does not come and go, and the residual slices that are there.
pub fn memory(ui: &mut Ui, device_bytes: u64, slice_bytes: u64) {
    let mib = |bytes: u64| bytes as f32 / (1 << 20) as f32;
    ui.label(format!("memory  {:.0} MiB, {:.0} of them slices", mib(device_bytes), mib(slice_bytes)));
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 18.0), Sense::hover());
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 3.0, Color32::from_gray(24));
    if device_bytes == 0 {
        return;
    }
    let share = slice_bytes as f32 / device_bytes as f32;
    let base = Rect::from_min_size(rect.min, Vec2::new(rect.width() * (1.0 - share), rect.height()));
    painter.rect_filled(base, 3.0, colour_of(2.0));
    let slices = Rect::from_min_max(base.right_top(), rect.max);
    painter.rect_filled(slices, 3.0, colour_of(8.0));
}
