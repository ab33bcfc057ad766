//! A chat window over edge-run: `edge-run-desktop MODEL_FOLDER [--cpu] [--shared-device] [--report FILE] [--animate]`.
//!
//! The answer's tokens are coloured by the bits that were read for them. A slider and a list of power modes change the
//! precision, in the middle of an answer too.

mod app;
mod frames;
mod painting;
mod worker;

use std::error::Error;
use std::path::PathBuf;

use edge_run::host_gpu::{self, HostDevice};
use edge_run::{Device, LanguageModel, OpenOptions};
use eframe::egui_wgpu::{RenderState, WgpuSetup};

/// Tokens of the conversation.
const CONTEXT: u32 = 2048;

/// What the command line says.
struct Arguments {
    folder: PathBuf,
    device: Device,
    /// Run the model on the device that draws the window.
    shares_device: bool,
    /// Where the times of frames go when the window is closed.
    report: Option<PathBuf>,
    /// Draw frame after frame, also while nothing is answered.
    animates: bool,
}

impl Arguments {
    fn read() -> Result<Arguments, String> {
        let mut arguments = std::env::args().skip(1);
        let (mut folder, mut report) = (None, None);
        let (mut device, mut shares_device, mut animates) = (Device::Best, false, false);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--cpu" => device = Device::Cpu,
                "--shared-device" => shares_device = true,
                "--animate" => animates = true,
                "--report" => report = Some(arguments.next().ok_or("--report needs a file")?.into()),
                option if option.starts_with("--") => return Err(format!("there is no option {option}")),
                path => folder = Some(PathBuf::from(path)),
            }
        }
        let folder = folder
            .ok_or("usage: edge-run-desktop MODEL_FOLDER [--cpu] [--shared-device] [--report FILE] [--animate]")?;
        Ok(Arguments { folder, device, shares_device, report, animates })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::read()?;
    let mut options = eframe::NativeOptions {
        viewport: eframe::egui::ViewportBuilder::default().with_inner_size([1000.0, 680.0]),
        ..Default::default()
    };
    if arguments.shares_device {
        ask_for_what_models_need(&mut options);
    }
    let opened = eframe::run_native(
        "edge-run",
        options,
        Box::new(move |creation| {
            let state = creation.wgpu_render_state.as_ref().filter(|_| arguments.shares_device);
            let model = open(&arguments, state)?;
            let worker = worker::Worker::start(model, creation.egui_ctx.clone());
            Ok(Box::new(app::ChatApp::new(worker, arguments.report, arguments.animates)))
        }),
    );
    Ok(opened?)
}

/// Merges what models need into what the window's device is asked for.
fn ask_for_what_models_need(options: &mut eframe::NativeOptions) {
    let WgpuSetup::CreateNew(setup) = &mut options.wgpu_options.wgpu_setup else { return };
    let own = setup.device_descriptor.clone();
    setup.device_descriptor = std::sync::Arc::new(move |adapter| {
        let mut wanted = own(adapter);
        // Where models cannot run on the adapter, opening one says so.
        if let Ok(needed) = host_gpu::device_descriptor(adapter) {
            wanted.required_features |= needed.required_features;
            wanted.required_limits = needed.required_limits;
            wanted.experimental_features = needed.experimental_features;
        }
        wanted
    });
}

/// Opens the model: on the window's device where there is `state`, else on one of its own.
fn open(arguments: &Arguments, state: Option<&RenderState>) -> edge_run::Result<LanguageModel> {
    let mut options = OpenOptions::default();
    options.device = arguments.device;
    options.context = Some(CONTEXT);
    let Some(state) = state else {
        return LanguageModel::open_with(&arguments.folder, options, &mut |_, _| ());
    };
    let (adapter, device, queue) = (state.adapter.clone(), state.device.clone(), state.queue.clone());
    LanguageModel::open_on(HostDevice { adapter, device, queue }, &arguments.folder, options, &mut |_, _| ())
}
