//! The bits that each token took, as its colour, or as a mark where there is no colour.

use clap::ColorChoice;

use edge_run::internals::precision::BITS;

/// How bits are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitsStyle {
    /// Colours of 24 bits.
    TrueColour,
    /// The palette of 256 colours.
    Palette,
    /// A small digit after each token.
    Marks,
}

/// Red, green and blue at the fewest, the middle and the most bits: orange, grey, blue, which the colour-blind can tell
/// apart, and which show on light and on dark.
const RAMP: [[f32; 3]; 3] = [[230.0, 97.0, 1.0], [150.0, 135.0, 125.0], [60.0, 120.0, 220.0]];
/// The same from the palette, for 2 to 8 bits.
const PALETTE: [u8; 7] = [202, 208, 173, 245, 109, 75, 33];
/// The digits of the marks.
const SMALL: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];

impl BitsStyle {
    /// The style for an output that `is_terminal` or not, in an environment. What the user chose by flag stands above
    /// `NO_COLOR`, and that above what the terminal can.
    pub fn choose(choice: ColorChoice, is_terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> BitsStyle {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let term = variable("TERM");
        // A Windows console that says neither may not understand the codes of colours.
        let silent = cfg!(windows) && term.is_none() && variable("WT_SESSION").is_none();
        let coloured = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                is_terminal && variable("NO_COLOR").is_none() && term.as_deref() != Some("dumb") && !silent
            }
        };
        let deep = variable("COLORTERM").is_some_and(|value| value == "truecolor" || value == "24bit");
        match (coloured, deep || variable("WT_SESSION").is_some()) {
            (false, _) => BitsStyle::Marks,
            (true, true) => BitsStyle::TrueColour,
            (true, false) => BitsStyle::Palette,
        }
    }

    /// A token's text with its bits.
    pub fn paint(self, text: &str, bits: f32) -> String {
        let bits = bits.clamp(*BITS.start(), *BITS.end());
        match self {
            BitsStyle::TrueColour => {
                let [red, green, blue] = ramp(bits);
                format!("\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m")
            }
            BitsStyle::Palette => format!("\x1b[38;5;{}m{text}\x1b[0m", PALETTE[nearest(bits) - 2]),
            BitsStyle::Marks => {
                // The mark belongs to the word, not to the line that comes after it.
                let (word, space) = text.split_at(text.trim_end().len());
                format!("{word}{}{space}", SMALL[nearest(bits)])
            }
        }
    }

    /// What colours or marks mean.
    pub fn legend(self) -> String {
        match self {
            BitsStyle::Marks => "bits: the small digit after each token, rounded".into(),
            _ => {
                let shades: Vec<String> =
                    (2..=8u8).map(|bits| self.paint(&bits.to_string(), f32::from(bits))).collect();
                format!("bits: {}", shades.join(" "))
            }
        }
    }
}

/// Whole bits, for which there are a mark and a colour of the palette.
fn nearest(bits: f32) -> usize {
    bits.round() as usize
}

fn ramp(bits: f32) -> [u8; 3] {
    let at = (bits - BITS.start()) / (BITS.end() - BITS.start()) * 2.0;
    let (low, part) = if at < 1.0 { (0, at) } else { (1, at - 1.0) };
    std::array::from_fn(|i| (RAMP[low][i] + (RAMP[low + 1][i] - RAMP[low][i]) * part).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(choice: ColorChoice, is_terminal: bool, variables: &[(&str, &str)]) -> BitsStyle {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        BitsStyle::choose(choice, is_terminal, &find)
    }

    #[test]
    fn a_terminal_gets_the_colours_that_it_can_show() {
        use ColorChoice::{Always, Auto, Never};
        let (xterm, deep) = (("TERM", "xterm-256color"), ("COLORTERM", "truecolor"));
        for (choice, is_terminal, variables, style) in [
            (Auto, true, &[xterm][..], BitsStyle::Palette),
            (Auto, true, &[xterm, deep], BitsStyle::TrueColour),
            (Auto, false, &[xterm, deep], BitsStyle::Marks),
            (Auto, true, &[("TERM", "dumb")], BitsStyle::Marks),
            (Auto, true, &[xterm, deep, ("NO_COLOR", "1")], BitsStyle::Marks),
            (Auto, true, &[xterm, deep, ("NO_COLOR", "")], BitsStyle::TrueColour),
            (Always, false, &[deep, ("NO_COLOR", "1")], BitsStyle::TrueColour),
            (Always, false, &[], BitsStyle::Palette),
            (Never, true, &[xterm, deep], BitsStyle::Marks),
        ] {
            assert_eq!(choose(choice, is_terminal, variables), style, "{choice:?} {is_terminal} {variables:?}");
        }
    }

    #[test]
    fn each_style_tells_bits_apart() {
        assert_eq!(BitsStyle::TrueColour.paint(" sky", 2.0), "\x1b[38;2;230;97;1m sky\x1b[0m");
        assert_eq!(BitsStyle::TrueColour.paint(" sky", 8.0), "\x1b[38;2;60;120;220m sky\x1b[0m");
        assert_eq!(BitsStyle::Palette.paint("sky", 4.4), "\x1b[38;5;173msky\x1b[0m");
        assert_eq!(BitsStyle::Marks.paint(" sky", 3.6), " sky⁴");
        assert_eq!(BitsStyle::Marks.paint(".\n\n", 8.0), ".⁸\n\n");
        for style in [BitsStyle::TrueColour, BitsStyle::Palette, BitsStyle::Marks] {
            let shades: std::collections::HashSet<String> = (2..=8).map(|bits| style.paint("x", bits as f32)).collect();
            assert_eq!(shades.len(), 7, "{style:?}");
        }
        assert_eq!(BitsStyle::Palette.legend().matches("\x1b[38;5;").count(), 7);
    }
}
