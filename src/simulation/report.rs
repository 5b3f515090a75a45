//! The report of runs: one self-contained HTML page, without network, that people who have not seen the code can read.

use super::Run;
use super::case::Case;
use serde_json::{Value, json};

const PAGE: &str = include_str!("report.html");
const MARK: &str = "/*RUNS*/[]";

fn shown(case: &Case, run: &Run) -> Value {
    json!({
        "name": case.name, "about": case.about, "seed": run.seed, "passed": run.passed(),
        "failure": run.failure, "violations": run.violations, "virtual_ms": run.virtual_ms,
        "digest": format!("{:016x}", run.digest), "measures": run.measures, "queries": run.tally,
        "rows": run.rows, "samples": run.samples, "checks": run.checks, "moves_bound": run.measures.moves_bound(),
        "thrash_percent": run.thrash_percent(), "settle_ms": run.settle_ms,
    })
}

/// The page.
pub fn page(runs: &[(Case, Run)]) -> String {
    let all: Vec<Value> = runs.iter().map(|(case, run)| shown(case, run)).collect();
    let data = serde_json::to_string(&all).unwrap_or_else(|_| "[]".to_owned());
    // Within a script element nothing may look like its end, nor like markup.
    PAGE.replacen(MARK, &data.replace('<', "\\u003c"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{case_file, play};

    #[test]
    fn the_page_holds_the_runs_and_asks_the_network_for_nothing() {
        let text = case_file::TEMPLATE.replace("the leader's daemon dies", "</script><b>bold");
        let case = case_file::parse("t.toml", &text).unwrap();
        let run = play(&case);
        assert!(!run.samples.is_empty());
        let page = page(&[(case, run)]);
        assert!(page.contains("\\u003c/script>\\u003cb>bold"), "text is no markup");
        assert_eq!(page.matches("</script>").count(), 1);
        for outside in ["http://", "https://", "src=", "@import"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }
}
