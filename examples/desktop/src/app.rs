//! The window: the conversation, what is asked next, and the panel of precision, memory and speed.

use std::path::PathBuf;

use edge_run::PowerMode;
use eframe::egui::{self, Frame, Key, RichText, ScrollArea, TextEdit, Ui, vec2};

use crate::frames::FrameClock;
use crate::painting;
use crate::worker::{Conversation, Request, Worker};

/// Tokens whose speed the graph shows.
const SPEEDS: usize = 200;

pub struct ChatApp {
    worker: Worker,
    frames: FrameClock,
    report: Option<PathBuf>,
    question: String,
    bits: f32,
    mode: PowerMode,
    /// Whether frames follow each other also while nothing is answered.
    animates: bool,
    /// Whether the frame before this one asked for this one.
    was_animated: bool,
    /// The heights of the exchanges as they were laid out last, and how wide that was.
    heights: Vec<f32>,
    width: f32,
}

impl ChatApp {
    pub fn new(worker: Worker, report: Option<PathBuf>, animates: bool) -> ChatApp {
        ChatApp {
            worker,
            frames: FrameClock::default(),
            report,
            question: String::new(),
            bits: 8.0,
            mode: PowerMode::High,
            animates,
            was_animated: false,
            heights: Vec::new(),
            width: 0.0,
        }
    }

    fn send(&mut self) {
        let question = self.question.trim().to_string();
        if !question.is_empty() && !self.worker.conversation().is_answering {
            // The window says so at once, so that nobody asks twice before the thread has begun.
            self.worker.send(Request::Ask(question));
            self.question.clear();
        }
    }

    fn precision(&mut self, ui: &mut Ui, conversation: &Shown) {
        ui.heading("Precision");
        let slider = egui::Slider::new(&mut self.bits, 2.0..=8.0).step_by(0.25).text("bits");
        if ui.add(slider).changed() {
            self.worker.send(Request::Bits(self.bits));
        }
        let chosen = self.mode;
        egui::ComboBox::from_label("power mode").selected_text(chosen.name()).show_ui(ui, |ui| {
            for mode in PowerMode::ALL {
                ui.selectable_value(&mut self.mode, mode, mode.name());
            }
        });
        if self.mode != chosen {
            self.worker.send(Request::Mode(self.mode));
        }
        ui.label(RichText::new(&conversation.plan).small());
        ui.label(RichText::new(format!("on {}", self.worker.device)).small());
    }

    fn panel(&mut self, ui: &mut Ui, shown: &Shown) {
        self.precision(ui, shown);
        ui.separator();
        painting::memory(ui, shown.device_bytes, shown.slice_bytes);
        ui.separator();
        painting::graph(ui, "speed", &shown.speed, "tokens/s");
        painting::graph(ui, "frame", &self.frames.recent, "ms");
        if let Some(p95) = self.frames.quantile(0.95) {
            ui.label(format!("95% of {} frames within {p95:.1} ms", self.frames.count()));
        }
    }

    fn input(&mut self, ui: &mut Ui, is_answering: bool) {
        ui.horizontal(|ui| {
            let width = ui.available_width() - 80.0;
            let edit = ui.add(TextEdit::singleline(&mut self.question).hint_text("Ask").desired_width(width));
            let entered = edit.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
            if is_answering {
                if ui.button("Stop").clicked() {
                    self.worker.stop();
                }
            } else if ui.button("Send").clicked() || entered {
                self.send();
                edit.request_focus();
            }
        });
        if is_answering && ui.input(|input| input.key_pressed(Key::Escape)) {
            self.worker.stop();
        }
    }
}

/// What a frame takes from the conversation, so that the lock is let go before anything is laid out.
struct Shown {
    plan: String,
    device_bytes: u64,
    slice_bytes: u64,
    speed: Vec<f32>,
    fault: Option<String>,
    is_answering: bool,
}

impl Shown {
    fn of(conversation: &Conversation) -> Shown {
        let first = conversation.speed.len().saturating_sub(SPEEDS);
        Shown {
            plan: conversation.plan.clone(),
            device_bytes: conversation.device_bytes,
            slice_bytes: conversation.slice_bytes,
            speed: conversation.speed[first..].iter().map(|[_, speed]| *speed as f32).collect(),
            fault: conversation.fault.clone(),
            is_answering: conversation.is_answering,
        }
    }
}

/// The exchanges, of which those that are over and out of sight are not laid out again.
fn exchanges(ui: &mut Ui, conversation: &Conversation, heights: &mut Vec<f32>) {
    for (at, exchange) in conversation.exchanges.iter().enumerate() {
        let place = egui::Rect::from_min_size(ui.cursor().min, vec2(1.0, heights.get(at).copied().unwrap_or(0.0)));
        if exchange.end.is_some() && at < heights.len() && !ui.is_rect_visible(place) {
            ui.allocate_space(place.size());
            continue;
        }
        let shown = ui.scope(|ui| {
            ui.label(RichText::new(&exchange.question).strong());
            painting::answer(ui, &exchange.answer);
            if let Some(end) = &exchange.end {
                ui.label(RichText::new(end).small().weak());
            }
            ui.add_space(10.0);
        });
        if exchange.end.is_some() {
            heights.resize(heights.len().max(at + 1), 0.0);
            heights[at] = shown.response.rect.height();
        }
    }
}

impl eframe::App for ChatApp {
    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        self.frames.note(self.was_animated);
        let shown = Shown::of(&self.worker.conversation());
        // The window is cleared in the panels' colour. Panels that fill it once more take a software renderer longer
        // than all that is in them.
        let bare = |frame: Frame| frame.fill(egui::Color32::TRANSPARENT);
        let (side, central) = (bare(Frame::side_top_panel(ui.style())), bare(Frame::central_panel(ui.style())));
        egui::Panel::right("panel").exact_size(280.0).frame(side).show(ui, |ui| self.panel(ui, &shown));
        egui::Panel::bottom("input").frame(side).show(ui, |ui| self.input(ui, shown.is_answering));
        egui::CentralPanel::default().frame(central).show(ui, |ui| {
            ScrollArea::vertical().stick_to_bottom(true).auto_shrink(false).show(ui, |ui| {
                if self.width != ui.available_width() {
                    self.width = ui.available_width();
                    self.heights.clear();
                }
                exchanges(ui, &self.worker.conversation(), &mut self.heights);
                if let Some(fault) = &shown.fault {
                    ui.colored_label(ui.visuals().error_fg_color, fault);
                }
            });
        });
        // While an answer runs, a frame follows the other, so that the graph tells what the window takes.
        self.was_animated = shown.is_answering || self.animates;
        if self.was_animated {
            ui.ctx().request_repaint();
        }
    }

    fn clear_color(&self, visuals: &egui::Visuals) -> [f32; 4] {
        visuals.panel_fill.to_normalized_gamma_f32()
    }

    fn on_exit(&mut self) {
        let Some(path) = &self.report else { return };
        let quantile = |share| self.frames.quantile(share).unwrap_or(0.0);
        let report = format!(
            "{{\"frames\": {}, \"median_ms\": {:.2}, \"p95_ms\": {:.2}, \"max_ms\": {:.2}}}\n",
            self.frames.count(),
            quantile(0.5),
            quantile(0.95),
            quantile(1.0)
        );
        if let Err(error) = std::fs::write(path, report) {
            eprintln!("{}: {error}", path.display());
        }
    }
}
