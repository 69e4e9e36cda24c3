//! The files of a node.

use super::{Check, Row};
use Check::Test;

const BACKUP: &str = "src/backup/file.rs";
const DAMAGE: &str = "src/store/tests/damage.rs";

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 116,
        sent: "a store that is damaged, cut, newer, or another node's",
        checks: &[
            Test(DAMAGE, "a_flipped_bit_in_any_value_is_an_error_that_says_where"),
            Test(DAMAGE, "a_folder_of_another_node_or_version_or_in_use_is_refused"),
            Test(DAMAGE, "damage_to_the_file_itself_never_reads_as_good_data"),
        ],
    },
    Row {
        number: 117,
        sent: "a key file that is open to others, wrong or missing",
        checks: &[
            Test("src/store/seal.rs", "the_key_file_is_private_and_never_replaced"),
            Test("src/store/seal.rs", "a_value_opens_only_whole_in_its_place_and_on_its_node"),
        ],
    },
    Row {
        number: 118,
        sent: "a backup that is cut, changed, newer, or sealed with another passphrase",
        checks: &[
            Test(BACKUP, "every_flipped_byte_and_every_cut_is_refused_with_what_to_do"),
            Test(BACKUP, "what_is_wrong_is_said_with_its_cause"),
            Test(BACKUP, "what_breaks_off_leaves_nothing"),
        ],
    },
];
