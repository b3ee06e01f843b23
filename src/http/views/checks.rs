//! What the doctor finds: what is wrong at once and before the list, the rest on demand, one fix a finding.

use maud::{Markup, html};

use super::notice::Tone;
use super::words;
use crate::engine::doctor::{Finding, Severity};

/// Backups fail, or are in danger: whoever comes to look for one should see that first.
pub fn are_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Problem)
}

/// The section.
pub fn checks(findings: &[Finding]) -> Markup {
    let of = |severity: Severity| findings.iter().filter(move |finding| finding.severity == severity);
    let (problems, warnings) = (of(Severity::Problem).count() as u64, of(Severity::Warning).count() as u64);
    let mut rest: Vec<&Finding> = findings.iter().filter(|it| it.severity != Severity::Problem).collect();
    rest.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    html! {
        section.checks.paper.alone #checks aria-labelledby="checks-title" {
            h2 #checks-title { "Checks" }
            @if problems > 0 { (list(of(Severity::Problem))) }
            details.fixed {
                summary {
                    (words::count(findings.len() as u64, "check")) ": "
                    @match (problems, warnings) {
                        (0, 0) => "all well",
                        (0, warnings) => (words::count(warnings, "warning")),
                        (problems, 0) => (words::count(problems, "problem")),
                        (problems, warnings) => { (words::count(problems, "problem")) ", " (words::count(warnings, "warning")) }
                    }
                }
                (list(rest.into_iter()))
            }
        }
    }
}

fn list<'f>(findings: impl Iterator<Item = &'f Finding>) -> Markup {
    html! {
        ul.warnings {
            @for finding in findings {
                @let tone = tone(finding.severity);
                li class=(tone.class()) {
                    (tone.icon())
                    div {
                        p { (words::prose(&finding.about)) ": " (words::prose(&finding.found)) }
                        @if let Some(fix) = &finding.fix { p { (words::prose(fix)) } }
                    }
                }
            }
        }
    }
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Ok => Tone::Good,
        Severity::Warning => Tone::Look,
        Severity::Problem => Tone::Bad,
    }
}
