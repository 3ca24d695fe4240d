//! Comments and meta-commands: what is in the text beside its statements.

use super::{ASIDE_LIMIT, Flaw, Scanner, State, Visitor};

impl Scanner {
    /// Takes a byte of a comment or of a meta-command.
    pub(super) fn aside(&mut self, byte: u8, visitor: &mut impl Visitor) -> Result<(), Flaw> {
        match &mut self.state {
            State::LineComment { between } if byte == b'\n' => {
                let between = *between;
                self.state = State::Plain;
                let text = String::from_utf8_lossy(&std::mem::take(&mut self.aside)).into_owned();
                if between {
                    visitor.comment(text.trim(), self.aside_line)?;
                } else {
                    self.hold(b'\n')?;
                }
            }
            State::Meta if byte == b'\n' => {
                self.state = State::Plain;
                let text = String::from_utf8_lossy(&std::mem::take(&mut self.aside)).into_owned();
                visitor.meta(text.trim_end(), self.aside_line)?;
            }
            State::LineComment { .. } | State::Meta if self.aside.len() < ASIDE_LIMIT => self.aside.push(byte),
            State::BlockComment(depth) => {
                match (self.aside.pop(), byte) {
                    (Some(b'*'), b'/') => *depth -= 1,
                    (Some(b'/'), b'*') => *depth = depth.saturating_add(1),
                    _ => self.aside.push(byte),
                }
                if *depth == 0 {
                    self.aside.clear();
                    self.state = State::Plain;
                    // A comment parts words, as a space does.
                    if !self.held.is_empty() {
                        self.hold(b' ')?;
                    }
                }
            }
            State::Meta => {
                return Err(Flaw::foreign(self.aside_line, "begins a meta-command of psql without an end"));
            }
            _ => {}
        }
        Ok(())
    }
}
