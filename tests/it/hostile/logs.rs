//! Lines of logs, and those who follow them. Lines come from instances and builds, which take an engine.

use super::{Check, Row};
use Check::{NotYet, Test};

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 113,
        sent: "markup, terminal sequences, turned text, 10 MiB, bytes that are not UTF-8",
        checks: &[
            Test("src/logs/clean.rs", "what_stays_and_what_goes"),
            Test("src/logs/clean.rs", "long_lines_are_cut_with_a_marker"),
            Test("src/logs/clean.rs", "nothing_can_take_over_a_terminal"),
            Test("src/logs/split.rs", "a_line_without_end_is_bounded"),
            Test("src/cli/output.rs", "text_from_a_server_cannot_steer_the_terminal"),
            NotYet("there are no pages that show logs; the API gives them as JSON strings"),
        ],
    },
    Row {
        number: 114,
        sent: "a line that imitates one of ours (an app's lines are JSON strings in a log of their own)",
        checks: &[Test("tests/it/api_streams.rs", "a_line_that_imitates_ours_is_the_text_of_one_event")],
    },
    Row {
        number: 115,
        sent: "a follower that never reads, or whose session ends",
        checks: &[
            Test("tests/it/api_server.rs", "a_client_that_never_reads_is_dropped"),
            Test("tests/it/api_streams.rs", "a_stream_ends_with_its_session_and_with_the_node"),
        ],
    },
];
