//! Panics of a run: tokio and actix swallow those of tasks, but in a simulation any panic is a failure.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Begins to collect the panics of this thread.
pub fn collect() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            SEEN.with_borrow_mut(|seen| seen.iter_mut().for_each(|seen| seen.push(info.to_string())));
            before(info);
        }));
    });
    SEEN.set(Some(Vec::new()));
}

/// Those collected so far; ends the collecting.
pub fn collected() -> Vec<String> {
    SEEN.take().unwrap_or_default()
}
