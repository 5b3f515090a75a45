//! Where a partition ends for a reader who sees only committed transactions.
//!
//! Pure. What librdkafka knows at any time is how far the log reaches, which counts messages of open transactions too:
//! nobody can read them, and nobody knows whether anybody ever will. Told as the end, a reader would lag for as long as
//! there is one. How far one can read is said when that end is reached, and when a broker is asked.

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The end when it was last reached.
    reached: Option<i64>,
    /// In the last round there was more than could be read, and reading stood here.
    waits_at: Option<i64>,
    /// For a log of that length, that end, as a broker said.
    answer: Option<(i64, i64)>,
}

/// What to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// This end.
    End(i64),
    /// A broker must be asked; without an answer, the log's length.
    Ask,
}

impl Ends {
    /// Everything that can be read was read, up to this offset.
    pub(super) fn reach(&mut self, end: i64) {
        self.reached = Some(end);
    }

    /// The end, for a reader who wants `next` of a log that reaches to `high`. Who reads on hears of more by itself: a
    /// broker is asked only where nothing has moved for a round.
    pub(super) fn tell(&mut self, next: i64, high: i64) -> Tell {
        if self.reached != Some(next) || high <= next {
            self.waits_at = None;
            return Tell::End(high);
        }
        match self.answer {
            Some((of, end)) if of == high => Tell::End(end),
            _ if self.waits_at.replace(next) == Some(next) => Tell::Ask,
            _ => Tell::End(high),
        }
    }

    /// A broker said how far one can read of a log that reaches to `high`.
    pub(super) fn answered(&mut self, high: i64, end: i64) {
        self.answer = Some((high, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_open_transaction_has_sent_is_not_the_end() {
        let mut ends = Ends::default();
        assert_eq!(ends.tell(0, 10), Tell::End(10), "still reading");
        ends.reach(7);
        assert_eq!(ends.tell(5, 10), Tell::End(10), "another assignment: reading again");
        assert_eq!(ends.tell(7, 10), Tell::End(10), "more may be on its way");
        assert_eq!(ends.tell(7, 10), Tell::Ask);
        ends.answered(10, 7);
        assert_eq!(ends.tell(7, 10), Tell::End(7));
        assert_eq!(ends.tell(7, 12), Tell::Ask, "more was sent, or it was committed");
        ends.answered(12, 12);
        assert_eq!(ends.tell(7, 12), Tell::End(12));
        ends.reach(12);
        assert_eq!(ends.tell(12, 12), Tell::End(12));
    }

    #[test]
    fn nobody_is_asked_while_messages_come() {
        let mut ends = Ends::default();
        for at in 0..5 {
            ends.reach(at);
            assert_eq!(ends.tell(at, at + 3), Tell::End(at + 3));
        }
    }
}
