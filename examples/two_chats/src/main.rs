//! Two conversations on one model, by turns: `two-chats MODEL_FOLDER [MOST_TOKENS]`.

use std::error::Error;
use std::io::Write;

use edge_run::{Event, LanguageModel, Message, OpenOptions, PowerMode, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("which model folder?")?;
    let most: usize = args.next().map_or(Ok(40), |most| most.parse())?;

    let mut options = OpenOptions::default();
    options.sessions = 2;
    let model = LanguageModel::open_with(folder, options, &mut |_, _| ())?;

    // One reads four bits whatever the power state is, the other follows it.
    let mut quick = model.session_with(model.plan(PowerMode::Low), model.recommended_sampling())?;
    let mut careful = model.session()?;
    careful.follow_system_power()?;

    let (mut colours, mut rivers) = (Vec::new(), Vec::new());
    for (colour, river) in [("Why is the sky blue?", "Name a river."), ("And at sunset?", "Where does it end?")] {
        say(&mut quick, &mut colours, colour, most)?;
        say(&mut careful, &mut rivers, river, most)?;
    }
    Ok(())
}

/// Adds a question to a conversation, prints the answer as it comes, and adds it too.
fn say(session: &mut Session, chat: &mut Vec<Message>, question: &str, most: usize) -> Result<(), Box<dyn Error>> {
    println!("> {question}");
    chat.push(Message::user(question));
    let mut answer = String::new();
    for event in session.chat(chat, Some(most))? {
        match event? {
            Event::Token(token) => {
                print!("{}", token.text);
                std::io::stdout().flush()?;
                answer += &token.text;
            }
            Event::Plan(plan) => eprintln!("[{} bits from here on: {}]", plan.bits(), plan.reason),
            Event::Done(summary) => {
                answer += &summary.text_left;
                let (run, generated) = (summary.prompt_tokens, summary.generated_tokens);
                println!("{}\n[{run} tokens run, {generated} generated]", summary.text_left);
            }
            _ => (),
        }
    }
    chat.push(Message::assistant(answer));
    Ok(())
}
