//! Uploaded archives. They are opened when a build begins, which takes an engine: the unpacking is tested next to its
//! code with archives made byte by byte, and through a whole node in `tests/real`.

use super::{Check, Row};
use Check::{Refused, Test};

const TESTS: &str = "src/build/archive/unpack/tests.rs";
const WHOLE: Check = Test("tests/real/node/hostile.rs", "hostile_sources_fail_their_build");

pub(super) const ROWS: &[Row] = &[
    Row { number: 83, sent: "../../etc/cron.d/x", checks: &[Test(TESTS, "paths_that_lead_outside"), WHOLE] },
    Row { number: 84, sent: "/abs", checks: &[Test(TESTS, "paths_that_lead_outside"), WHOLE] },
    Row {
        number: 85,
        sent: "a link, then a file through it",
        checks: &[Test(TESTS, "a_link_in_the_place_of_a_folder"), WHOLE],
    },
    Row {
        number: 86,
        sent: "a link and a folder of one name",
        checks: &[Test(TESTS, "a_link_in_the_place_of_a_folder")],
    },
    Row { number: 87, sent: "a hard link to outside", checks: &[Test(TESTS, "links_that_lead_outside"), WHOLE] },
    Row {
        number: 88,
        sent: "a device, a pipe, a socket",
        checks: &[Test(TESTS, "what_is_neither_file_nor_folder_nor_link"), WHOLE],
    },
    Row {
        number: 89,
        sent: "setuid bits and owners (dropped)",
        checks: &[Test(TESTS, "a_usual_archive_in_every_format")],
    },
    Row { number: 90, sent: "two sizes of one entry", checks: &[Test(TESTS, "headers_that_disagree")] },
    Row {
        number: 91,
        sent: "a bomb, endless names, deep folders",
        checks: &[
            Test(TESTS, "a_bomb_is_cut_short"),
            Test(TESTS, "limits_hold"),
            Test(TESTS, "a_header_without_end_is_not_kept_in_memory"),
        ],
    },
    Row { number: 92, sent: "a damaged, cut or extended stream", checks: &[Test(TESTS, "damage"), WHOLE] },
    Row { number: 93, sent: "twins", checks: &[Test(TESTS, "twins"), WHOLE] },
    Row {
        number: 94,
        sent: "a zip whose lists disagree, or an encrypted one (no zip is taken, and none is opened to find out)",
        checks: &[Test(TESTS, "other_formats_are_named"), WHOLE],
    },
];

const UPLOAD: &str = "/v1/apps/shop/services/web/source";

#[test]
fn rows_hold() {
    super::run(ROWS);
    // What can be said before any unpacking: this service takes no upload.
    super::run(&[Row {
        number: 0,
        sent: "an upload nobody asked for",
        checks: &[Refused(&[("POST", UPLOAD, "x", 409, "conflict", "")])],
    }]);
}
