//! Damage: rows and files that are not what was written are errors that say where, and never data.

use super::*;

const LOG_TABLE: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

fn values(path: &Path, table: ByteTable) -> Vec<(Vec<u8>, Vec<u8>)> {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_read().expect("begins");
    let table = transaction.open_table(table).expect("table");
    let rows = table.iter().expect("iterates").map(|row| row.expect("row"));
    rows.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect()
}

fn put(path: &Path, table: ByteTable, key: &[u8], value: &[u8]) {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_write().expect("begins");
    transaction.open_table(table).expect("table").insert(key, value).expect("inserts");
    transaction.commit().expect("commits");
}

fn log_values(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_read().expect("begins");
    let table = transaction.open_table(LOG_TABLE).expect("table");
    let rows = table.iter().expect("iterates").map(|row| row.expect("row"));
    rows.map(|(key, value)| (key.value(), value.value().to_vec())).collect()
}

fn put_log(path: &Path, index: u64, value: Option<&[u8]>) {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_write().expect("begins");
    let mut table = transaction.open_table(LOG_TABLE).expect("table");
    match value {
        Some(value) => drop(table.insert(index, value).expect("inserts")),
        None => drop(table.remove(index).expect("removes")),
    }
    drop(table);
    transaction.commit().expect("commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_value_is_an_error_that_says_where() {
    let node = filled().await;
    let mut checked = 0;
    let mut kinds = std::collections::BTreeSet::new();
    for (file, table) in [(RAFT_FILE, "meta"), (STATE_FILE, "meta"), (STATE_FILE, "rows")] {
        let path = node.folder.path().join(file);
        let table_of = ByteTable::new(table);
        for (key, value) in values(&path, table_of) {
            for at in [0, value.len() / 2, value.len() - 1] {
                let mut flipped = value.clone();
                flipped[at] ^= 1;
                put(&path, table_of, &key, &flipped);
                let error = node.reopen().err().unwrap_or_else(|| panic!("{file} {table} {key:?} byte {at} was taken"));
                let text = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
                assert!(text.contains(file), "{text}");
                if !matches!(error, Error::Newer { .. } | Error::Foreign { .. }) {
                    assert!(text.contains(table), "{text}");
                    let kind = match table {
                        "meta" => String::from_utf8(key.clone()).expect("a name"),
                        _ => text
                            .split("key of kind ")
                            .nth(1)
                            .expect("a kind")
                            .split([',', ':'])
                            .next()
                            .expect("a word")
                            .to_owned(),
                    };
                    assert!(text.contains(&format!("table {table}, ")) && text.contains(&kind), "{text}");
                    kinds.insert(kind);
                }
                checked += 1;
            }
            put(&path, table_of, &key, &value);
        }
    }
    let path = node.folder.path().join(RAFT_FILE);
    for (index, value) in log_values(&path) {
        let mut flipped = value.clone();
        flipped[value.len() / 2] ^= 0x80;
        put_log(&path, index, Some(&flipped));
        let Err(error @ Error::Damaged { .. }) = node.reopen() else { panic!("entry {index} was taken") };
        assert!(error.to_string().contains(&format!("log index {index}")), "{error}");
        put_log(&path, index, Some(&value));
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["applied", "committed", "format", "identity", "identity-seal", "purged", "setting", "vote"]
    );
    drop(node.open());
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_values_and_gaps_are_errors() {
    let node = filled().await;
    let raft = node.folder.path().join(RAFT_FILE);
    let log = log_values(&raft);
    put_log(&raft, 2, Some(&log[&3]));
    put_log(&raft, 3, Some(&log[&2]));
    assert!(matches!(node.reopen(), Err(Error::Damaged { table: "log", .. })));
    put_log(&raft, 2, Some(&log[&2]));
    put_log(&raft, 3, None);
    let Err(error @ Error::Damaged { table: "log", .. }) = node.reopen() else { panic!("a gap was taken") };
    assert!(error.to_string().contains("missing"), "{error}");
    put_log(&raft, 3, Some(&log[&3]));

    let meta = ByteTable::new("meta");
    let of = |key: &str| values(&raft, meta).into_iter().find(|(k, _)| k == key.as_bytes()).expect("is there").1;
    let (committed, purged) = (of("committed"), of("purged"));
    put(&raft, meta, b"committed", &purged);
    assert!(matches!(node.reopen(), Err(Error::Damaged { table: "meta", .. })));
    put(&raft, meta, b"committed", &committed);
    drop(node.open());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_node_or_version_or_in_use_is_refused() {
    let node = filled().await;
    let store = node.open();
    assert!(matches!(node.reopen(), Err(Error::InUse { .. })));
    assert!(owner(node.folder.path()).is_err(), "it is in use");
    store.close().await.expect("closes");
    assert_eq!(owner(node.folder.path()).expect("it says so itself"), (node.cluster, NodeId(1)));

    let other =
        |cluster, number| Store::open(Options { cluster, node: NodeId(number), ..node.options(node.folder.path()) });
    assert!(matches!(other(node.cluster, 2), Err(Error::Foreign { found_node: NodeId(1), .. })));
    assert!(matches!(other(random::id(), 1), Err(Error::Foreign { .. })));
    let wrong_key = SealKey::create(&node.folder.path().join("other.key")).expect("key");
    let opened = Store::open(Options { key: wrong_key, ..node.options(node.folder.path()) });
    assert!(matches!(opened, Err(Error::Damaged { .. })));

    let state = node.folder.path().join(STATE_FILE);
    put(&state, ByteTable::new("meta"), b"format", &2_u16.to_be_bytes());
    assert!(matches!(node.reopen(), Err(Error::Newer { found: 2, supported: 1, .. })));
    put(&state, ByteTable::new("meta"), b"format", &1_u16.to_be_bytes());

    let raft = node.folder.path().join(RAFT_FILE);
    let aside = node.folder.path().join("aside");
    fs::rename(&raft, &aside).expect("rename");
    assert!(matches!(node.reopen(), Err(Error::Missing { .. })), "a state without its log and vote");
    fs::rename(&aside, &raft).expect("rename");
    fs::rename(&state, &aside).expect("rename");
    assert!(matches!(node.reopen(), Err(Error::Missing { .. })), "a log without its state");
    fs::rename(&aside, &state).expect("rename");
    assert_eq!(domain(&node.open()), "a.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_file_itself_never_reads_as_good_data() {
    let node = filled().await;
    let good = fs::read(node.folder.path().join(STATE_FILE)).expect("read");
    let expected = "a.test";
    for step in 0..200 {
        let copy = tempfile::tempdir().expect("folder");
        copy_all(node.folder.path(), copy.path());
        let mut flipped = good.clone();
        let at = (step * 7919 + 13) % flipped.len();
        flipped[at] ^= 1 << (step % 8);
        fs::write(copy.path().join(STATE_FILE), &flipped).expect("write");
        // As after a crash, which is when the checksums are verified.
        let _ = fs::remove_file(copy.path().join(CLEAN_FILE));
        if let Ok(store) = Store::open(node.options(copy.path())) {
            assert_eq!(domain(&store), expected, "byte {at}");
            assert_eq!(store.machine().applied_state().await.expect("reads").0, Some(log_id(1, 4)), "byte {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_the_position_that_every_start_syncs_is_refused() {
    let node = filled().await;
    let position = node.folder.path().join(POSITION_FILE);
    let good = fs::read(&position).expect("read");
    for was_clean in [true, false] {
        if !was_clean {
            fs::remove_file(node.folder.path().join(CLEAN_FILE)).expect("removed");
        }
        fs::remove_file(&position).expect("removed");
        assert!(matches!(node.reopen(), Err(Error::Missing { path }) if path == position), "gone, {was_clean}");
        fs::write(&position, b"").expect("written");
        assert!(matches!(node.reopen(), Err(Error::Missing { path }) if path == position), "empty, {was_clean}");
        fs::write(&position, &good).expect("written");
    }
    drop(node.open());
}
