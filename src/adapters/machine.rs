//! The machine that a daemon runs on, as far as it tells one start of itself from the next.
//!
//! A start of its kernel is what counts: what a server had written and the kernel not yet put on the disk outlives
//! every process, and is lost with the power. It tells of the daemon's own machine, and so of servers beside it only.

use std::fmt;

/// Linux makes this anew whenever it starts; containers see their host's.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One start of a machine, by the first eight hex digits of its id. Two that differ are two starts, or two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(pub u32);

impl Boot {
    /// The present one; `None` where the system does not tell it.
    pub fn current() -> Option<Self> {
        std::fs::read_to_string(BOOT_ID).ok().as_deref().and_then(Self::parse)
    }

    /// Of a text that begins with eight hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.get(..8).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_told_by_the_head_of_its_id() {
        let boot = Boot::parse("0a1b2c3d-77aa-4f0e-9d0c-6a1f3a9c2d00\n");
        assert_eq!(boot, Some(Boot(0x0a1b_2c3d)));
        assert_eq!(boot.map(|boot| boot.to_string()).as_deref(), Some("0a1b2c3d"));
        for text in ["", "0a1b2c3", "0a1b-2c3d", "+a1b2c3d", "nonsense"] {
            assert_eq!(Boot::parse(text), None, "{text:?}");
        }
        assert_eq!(Boot::current(), Boot::current(), "it stays while the machine runs");
    }
}
