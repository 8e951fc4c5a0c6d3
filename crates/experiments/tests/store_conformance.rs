//! What every backend of the store must do. Runs on SQLite always, and with the feature `postgres` on
//! the database that `EXP_TEST_POSTGRES` names (`postgresql://...`), in which schemas may be made;
//! `postgres/run.sh` starts one.
//!
//! Long because one list of checks goes over every backend.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{SEALED, attempt, claim_request, key, session, trials};
use experiments::{
    plan::Stage,
    store::{
        SqliteStore, Store, StoreError, export, import, merge,
        record::{
            Artifact, AttemptRecord, EventRecord, ExperimentRecord, Lease, MetricRow,
            ReclaimRequest, Status,
        },
        seal,
    },
};

/// A store that can be opened several times at once.
struct Place {
    open: Box<dyn Fn() -> Box<dyn Store>>,
    _keep: Box<dyn std::any::Any>,
}

impl Place {
    fn open(&self) -> Box<dyn Store> {
        (self.open)()
    }
}

fn sqlite() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results/store.db");
    Place {
        open: Box::new(move || Box::new(SqliteStore::open(&path).unwrap())),
        _keep: Box::new(folder),
    }
}

type Check = fn(&dyn Fn() -> Place);

const CHECKS: &[(&str, Check)] = &[
    ("plan", plan_inserts_retires_and_is_quiet),
    ("round trip", an_attempt_comes_back_bit_by_bit),
    ("lease", two_owners_never_hold_one_trial),
    ("race", runners_that_lose_their_leases_leave_one_result_each),
    ("order", claims_follow_the_order_and_the_filter),
    ("expiry", an_expired_lease_is_taken_over_and_the_late_result_is_superseded),
    ("release", a_released_attempt_does_not_count),
    ("loss", losses_are_tried_again_until_the_limit),
    ("retry", a_retry_grants_fresh_attempts),
    ("seal", sealed_values_stay_sealed_until_an_event),
    ("events", events_are_in_order),
    ("experiment", a_store_belongs_to_one_experiment),
    ("merge", merging_is_idempotent_and_refuses_another_spec),
    ("import", foreign_results_come_in_once),
    ("export", every_backend_gives_the_same_tables),
    ("refusals", what_a_store_refuses),
];

#[test]
fn sqlite_conforms() {
    for (name, check) in CHECKS {
        println!("sqlite: {name}");
        check(&sqlite);
    }
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_conforms() {
    use experiments::store::PostgresStore;
    use std::sync::atomic::{AtomicU32, Ordering};
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let place = || {
        let schema = Schema(format!(
            "conformance_{}_{}",
            std::process::id(),
            SCHEMAS.fetch_add(1, Ordering::Relaxed)
        ));
        let name = schema.0.clone();
        let url = common::postgres_url();
        Place {
            open: Box::new(move || Box::new(PostgresStore::connect(&url, &name).unwrap())),
            _keep: Box::new(schema),
        }
    };
    for (name, check) in CHECKS {
        println!("postgres: {name}");
        check(&place);
    }
}

/// Removed with everything in it when a check is done.
#[cfg(feature = "postgres")]
struct Schema(String);

#[cfg(feature = "postgres")]
impl Drop for Schema {
    fn drop(&mut self) {
        use ::postgres::{Client, NoTls};
        if let Ok(mut raw) = Client::connect(&common::postgres_url(), NoTls) {
            let _ = raw.batch_execute(&format!(
                "SET client_min_messages TO warning; DROP SCHEMA IF EXISTS {} CASCADE",
                self.0
            ));
        }
    }
}

fn experiment(id: &str, hash: &str) -> ExperimentRecord {
    ExperimentRecord {
        id: id.to_owned(),
        spec_toml: "schema = 1".to_owned(),
        spec_hash: hash.to_owned(),
        schema: 1,
        created_at: 5,
    }
}

/// A planned store with one session of each name.
fn planned(place: &Place, reps: u32, sessions: &[&str]) -> Box<dyn Store> {
    let mut store = place.open();
    store.set_experiment(&experiment("toy", "hash")).unwrap();
    store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], reps)).unwrap();
    for id in sessions {
        store.begin_session(&session(id)).unwrap();
    }
    store
}

fn plan_inserts_retires_and_is_quiet(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = place.open();
    let all = trials(Stage::Main, &[("fine", 0.0), ("sleep", 0.5)], 2);
    assert_eq!(store.plan("hash", &all).unwrap(), 4);
    assert_eq!(store.plan("hash", &all).unwrap(), 0);
    let pilot = trials(Stage::Pilot, &[("fine", 0.0)], 1);
    assert_eq!(store.plan("pilot", &pilot).unwrap(), 1);
    assert!(store.trials().unwrap().iter().all(|row| !row.retired), "stages do not retire others");
    // A removed cell is retired, and comes back.
    assert_eq!(store.plan("other", &all[..2]).unwrap(), 0);
    let retired =
        |store: &dyn Store| store.trials().unwrap().iter().filter(|row| row.retired).count();
    assert_eq!(retired(&*store), 2);
    assert_eq!(store.counts().unwrap().values().sum::<u64>(), 3);
    store.plan("hash", &all).unwrap();
    assert_eq!(retired(&*store), 0);
    // Another connection sees the same rows with the same values.
    let rows = place.open().trials().unwrap();
    let row = rows.iter().find(|row| row.key == all[1].key).unwrap();
    assert_eq!((&row.cell, &row.seeds, row.rep), (&all[1].cell, &all[1].seeds, all[1].rep));
    assert_eq!((row.status, row.attempt, row.stage), (Status::Pending, 0, Stage::Main));
}

fn same(a: &AttemptRecord, b: &AttemptRecord) -> bool {
    // NaN is not equal to itself; as JSON it is a word.
    serde_json::to_value(a).unwrap() == serde_json::to_value(b).unwrap()
}

fn an_attempt_comes_back_bit_by_bit(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["s1"]);
    let claim = store.claim(&claim_request("s1", 0)).unwrap().unwrap();
    let mut given = attempt(&claim, Status::Ok);
    assert!(store.finish(&claim, &given).unwrap());
    let got = place.open().full_attempts(&claim.trial.key).unwrap();
    assert_eq!(got.len(), 1);
    "out\u{fffd}put".clone_into(&mut given.stdout_tail);
    given.sealed_names = ["test_error".to_owned()].into();
    let mut got = got[0].clone();
    got.metrics.sort_by_key(|m| (m.split.clone(), m.name.clone()));
    given.metrics.sort_by_key(|m| (m.split.clone(), m.name.clone()));
    assert!(same(&got, &given), "{got:#?}\n{given:#?}");
    assert_eq!(got.metrics.last().unwrap().value.0.to_bits(), (0.1_f64 + 0.2).to_bits());
    assert_eq!(store.sessions().unwrap(), vec![session("s1")]);
    store.end_session("s1", 99).unwrap();
    assert_eq!(store.sessions().unwrap()[0].ended_at, Some(99));
    assert_eq!(store.result_sessions(Stage::Main).unwrap(), ["s1"]);
    assert!(store.result_sessions(Stage::Pilot).unwrap().is_empty());
}

fn two_owners_never_hold_one_trial(place: &dyn Fn() -> Place) {
    let place = place();
    drop(planned(&place, 40, &["a", "b", "c"]));
    let mut threads = Vec::new();
    for owner in ["a", "b", "c"] {
        let mut store = place.open();
        threads.push(std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Some(claim) = store.claim(&claim_request(owner, 0)).unwrap() {
                held.push(claim.trial.key);
            }
            held
        }));
    }
    let mut all: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(all.len(), 40);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 40);
    assert_eq!(place.open().leases().unwrap().len(), 40);
}

/// Four runners whose leases end while they work, and one who takes back what is lost.
fn runners_that_lose_their_leases_leave_one_result_each(place: &dyn Fn() -> Place) {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    };
    const TRIALS: u32 = 25;
    const OWNERS: [&str; 4] = ["a", "b", "c", "d"];
    let place = place();
    drop(planned(&place, TRIALS, &OWNERS));
    // One clock for all: a claim every 10 ms, a lease of 30 ms.
    let clock = Arc::new(AtomicI64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (i, owner) in OWNERS.into_iter().enumerate() {
        let mut store = place.open();
        let clock = Arc::clone(&clock);
        threads.push(std::thread::spawn(move || {
            let (mut committed, mut late) = (0, 0);
            let mut turn = i;
            loop {
                let now = clock.fetch_add(10, Ordering::SeqCst);
                let mut request = claim_request(owner, now);
                request.lease_until = now + 30;
                request.max_attempts = 1000;
                let Some(claim) = store.claim(&request).unwrap() else {
                    if store.trials().unwrap().iter().all(|row| row.status.finished()) {
                        return (committed, late);
                    }
                    continue;
                };
                turn += 1;
                match turn % 5 {
                    // Too slow, and does not know it.
                    0 => {
                        clock.fetch_add(40, Ordering::SeqCst);
                    }
                    // Gone without a word.
                    1 if turn < 40 => continue,
                    2 => {
                        store.release(&claim).unwrap();
                        continue;
                    }
                    3 => {
                        let until = clock.load(Ordering::SeqCst) + 30;
                        store.renew(&claim, until).unwrap();
                    }
                    _ => {}
                }
                if store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap() {
                    committed += 1;
                } else {
                    late += 1;
                }
            }
        }));
    }
    let taker = {
        let mut store = place.open();
        let (clock, done) = (Arc::clone(&clock), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let now = clock.load(Ordering::SeqCst);
                let request = ReclaimRequest { dead_owners: Vec::new(), now, max_attempts: 1000 };
                store.reclaim(&request).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        })
    };
    let sums: Vec<(usize, usize)> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    done.store(true, Ordering::SeqCst);
    taker.join().unwrap();
    let store = place.open();
    let rows = store.trials().unwrap();
    assert!(rows.iter().all(|row| row.status == Status::Ok), "{rows:?}");
    let committed: usize = sums.iter().map(|sum| sum.0).sum();
    let late: usize = sums.iter().map(|sum| sum.1).sum();
    assert_eq!(committed, TRIALS as usize, "each trial has one result that counts");
    let attempts = store.attempts().unwrap();
    let with = |status| attempts.iter().filter(|a| a.status == status).count();
    assert_eq!((with(Status::Ok), with(Status::Superseded)), (committed, late));
    assert!(with(Status::Lost) > 0, "some runner was lost");
    for row in &rows {
        let counted = attempts.iter().find(|a| a.key == row.key && a.attempt == row.attempt);
        assert_eq!(counted.map(|a| a.status), Some(Status::Ok), "{row:?}");
    }
    assert_eq!(store.metrics().unwrap().len(), 3 * committed, "three open values of each");
    assert_eq!(store.points().unwrap().len(), 2 * committed);
}

fn claims_follow_the_order_and_the_filter(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 6, &["a"]);
    let rows = store.trials().unwrap();
    let first = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    assert_eq!(first.trial.ord, 0);
    let mut only = claim_request("a", 0);
    only.only = Some(vec![rows[4].key.clone(), rows[3].key.clone(), rows[0].key.clone()]);
    assert_eq!(store.claim(&only).unwrap().unwrap().trial.ord, 3);
    assert_eq!(store.claim(&only).unwrap().unwrap().trial.ord, 4);
    assert!(store.claim(&only).unwrap().is_none());
    only.only = Some(vec![rows[5].key.clone()]);
    assert_eq!(store.claim(&only).unwrap().unwrap().trial.ord, 5);
    assert_eq!(store.claim(&claim_request("a", 0)).unwrap().unwrap().trial.ord, 1);
    let mut pilot = claim_request("a", 0);
    pilot.stage = Stage::Pilot;
    assert!(store.claim(&pilot).unwrap().is_none());
}

fn an_expired_lease_is_taken_over_and_the_late_result_is_superseded(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["slow", "quick"]);
    let slow = store.claim(&claim_request("slow", 0)).unwrap().unwrap();
    assert!(store.claim(&claim_request("quick", 999)).unwrap().is_none(), "the lease holds");
    assert!(store.renew(&slow, 2000).unwrap());
    assert!(store.claim(&claim_request("quick", 1500)).unwrap().is_none(), "it was renewed");
    let quick = store.claim(&claim_request("quick", 2001)).unwrap().unwrap();
    assert_eq!((quick.attempt, quick.trial.key.clone()), (2, slow.trial.key.clone()));
    assert!(!store.renew(&slow, 9000).unwrap());
    let lost: Vec<_> =
        store.attempts().unwrap().into_iter().map(|a| (a.attempt, a.status)).collect();
    assert_eq!(lost, [(1, Status::Lost)]);
    // The late result is kept, whichever comes first.
    assert!(!store.finish(&slow, &attempt(&slow, Status::Ok)).unwrap());
    assert!(store.finish(&quick, &attempt(&quick, Status::Ok)).unwrap());
    let mut all: Vec<_> =
        store.attempts().unwrap().into_iter().map(|a| (a.attempt, a.status)).collect();
    all.sort();
    assert_eq!(all, [(1, Status::Superseded), (2, Status::Ok)]);
    let row = &store.trials().unwrap()[0];
    assert_eq!((row.status, row.attempt), (Status::Ok, 2));
    assert!(store.metrics().unwrap().iter().all(|metric| metric.attempt == 2), "one result counts");
    assert!(store.claim(&claim_request("quick", 1 << 40)).unwrap().is_none());
}

fn a_released_attempt_does_not_count(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["a", "b"]);
    for _ in 0..5 {
        let claim = store.claim(&claim_request("a", 0)).unwrap().unwrap();
        assert_eq!(claim.attempt, 1);
        store.release(&claim).unwrap();
    }
    let old = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    let new = store.claim(&claim_request("b", 5000)).unwrap().unwrap();
    store.release(&old).unwrap();
    let leases = store.leases().unwrap();
    assert_eq!(leases[0].owner, "b", "a lost lease is not released: {leases:?}");
    assert!(store.finish(&new, &attempt(&new, Status::Crash)).unwrap());
}

fn losses_are_tried_again_until_the_limit(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 2, &["a", "b"]);
    // The runner itself saw the loss.
    let first = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    assert!(store.finish(&first, &attempt(&first, Status::Lost)).unwrap());
    assert_eq!(store.trials().unwrap()[0].status, Status::Pending);
    assert!(store.metrics().unwrap().is_empty());
    // The runner is gone.
    let second = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    assert_eq!((second.trial.ord, second.attempt), (0, 2));
    let other = store.claim(&claim_request("b", 0)).unwrap().unwrap();
    let reclaim = |store: &mut dyn Store, dead: &[&str], now| -> Vec<Lease> {
        store
            .reclaim(&ReclaimRequest {
                dead_owners: dead.iter().map(|owner| (*owner).to_owned()).collect(),
                now,
                max_attempts: 2,
            })
            .unwrap()
    };
    assert!(reclaim(&mut *store, &[], 10).is_empty());
    let taken = reclaim(&mut *store, &["a"], 10);
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].key, second.trial.key);
    let rows = store.trials().unwrap();
    assert_eq!((rows[0].status, rows[0].attempt), (Status::Crash, 2));
    let last = store.full_attempts(&second.trial.key).unwrap().pop().unwrap();
    assert_eq!((last.status, last.reason.as_deref()), (Status::Crash, Some("lost")));
    assert_eq!(last.session_id, "a");
    // A result that comes after all is kept and does not change the state.
    assert!(!store.finish(&second, &attempt(&second, Status::Ok)).unwrap());
    assert_eq!(store.trials().unwrap()[0].status, Status::Crash);
    assert_eq!(store.full_attempts(&second.trial.key).unwrap().len(), 3);
    assert!(store.metrics().unwrap().is_empty());
    // An ended lease needs no name.
    assert_eq!(reclaim(&mut *store, &[], 1 << 40)[0].key, other.trial.key);
    assert_eq!(store.trials().unwrap()[1].status, Status::Pending);
}

fn a_retry_grants_fresh_attempts(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["a"]);
    for _ in 0..2 {
        let claim = store.claim(&claim_request("a", 0)).unwrap().unwrap();
        store.finish(&claim, &attempt(&claim, Status::Lost)).unwrap();
    }
    assert!(store.claim(&claim_request("a", 0)).unwrap().is_none(), "two attempts are allowed");
    let trial = store.trials().unwrap().remove(0);
    assert_eq!(store.retry(std::slice::from_ref(&trial.key)).unwrap(), 0, "it is still pending");
    let mut more = claim_request("a", 0);
    more.max_attempts = 3;
    let claim = store.claim(&more).unwrap().unwrap();
    store.finish(&claim, &attempt(&claim, Status::Crash)).unwrap();
    assert_eq!(store.retry(&[trial.key.clone(), key("unknown")]).unwrap(), 1);
    let claim = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    assert_eq!((claim.attempt, claim.trial.granted), (4, 3));
    store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap();
    assert_eq!(store.full_attempts(&trial.key).unwrap().len(), 4);
}

fn holds_sealed(value: &impl serde::Serialize) -> bool {
    serde_json::to_string(value).unwrap().contains("0.77117711771177")
}

fn sealed_values_stay_sealed_until_an_event(make: &dyn Fn() -> Place) {
    let place = make();
    let mut store = planned(&place, 1, &["a"]);
    assert!(!seal::state(&*store).unwrap().frozen_first);
    assert!(seal::freeze(&mut *store, "hash", Some("rev"), "toml", 15).unwrap());
    assert!(!seal::freeze(&mut *store, "hash", Some("rev"), "toml", 16).unwrap());
    let claim = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap();
    let looks = |store: &dyn Store| {
        [
            holds_sealed(&store.metrics().unwrap()),
            holds_sealed(&store.points().unwrap()),
            holds_sealed(&store.attempts().unwrap()),
            holds_sealed(&store.trials().unwrap()),
            holds_sealed(&store.events().unwrap()),
            export::results(store).unwrap().to_csv().contains("0.77117711771177"),
            export::curves(store).unwrap().to_csv().contains("0.77117711771177"),
        ]
    };
    assert_eq!(looks(&*store), [false; 7]);
    assert!(holds_sealed(&store.full_attempts(&claim.trial.key).unwrap()), "it is there");
    assert_eq!(store.metrics().unwrap().len(), 3);
    assert_eq!(store.points().unwrap().len(), 2);
    let state = seal::state(&*store).unwrap();
    assert!(state.frozen_first && state.unseals.is_empty());
    let facts = state.sealed[&Stage::Main];
    assert_eq!((facts.count, facts.first_at), (1, Some(20)));
    assert!(matches!(
        seal::unseal(&mut *store, "  ", true, false, 30),
        Err(StoreError::Conflict { .. })
    ));
    seal::unseal(&mut *store, "the plan is done", true, false, 30).unwrap();
    assert_eq!(looks(&*store), [true, true, true, false, false, true, true]);
    let test: Vec<MetricRow> =
        store.metrics().unwrap().into_iter().filter(|m| m.metric.split == "test").collect();
    assert_eq!(test.len(), 1);
    assert_eq!(test[0].metric.value.0.to_bits(), SEALED.to_bits());
    assert_eq!(seal::state(&*store).unwrap().unseals.len(), 1);
    // Without a freeze, opening the seal of a confirmatory experiment has to be meant.
    let fresh = make();
    let mut other = fresh.open();
    assert!(seal::unseal(&mut *other, "curious", true, false, 1).is_err());
    seal::unseal(&mut *other, "curious", true, true, 1).unwrap();
    seal::freeze(&mut *other, "hash", None, "toml", 2).unwrap();
    assert!(!seal::state(&*other).unwrap().frozen_first, "too late for ever");
}

fn events_are_in_order(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["a"]);
    let event = |at, kind: &str, session: Option<&str>| EventRecord {
        at,
        session_id: session.map(str::to_owned),
        kind: kind.to_owned(),
        detail_json: serde_json::json!({"x": [1, 2.5, null]}),
    };
    let all = [event(9, "freeze", None), event(3, "backup", Some("a")), event(3, "backup", None)];
    for event in &all {
        store.append_event(event).unwrap();
    }
    assert_eq!(store.events().unwrap(), all);
    assert!(store.append_event(&event(1, "x", Some("no such session"))).is_err());
    assert_eq!(store.events().unwrap().len(), 3);
}

fn a_store_belongs_to_one_experiment(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = place.open();
    assert_eq!(store.experiment().unwrap(), None);
    store.set_experiment(&experiment("toy", "one")).unwrap();
    let changed = ExperimentRecord { created_at: 77, ..experiment("toy", "two") };
    store.set_experiment(&changed).unwrap();
    assert_eq!(store.experiment().unwrap().unwrap(), experiment("toy", "two"));
    let error = store.set_experiment(&experiment("else", "two")).unwrap_err().to_string();
    assert!(error.contains("else") && error.contains("toy"), "{error}");
}

fn merging_is_idempotent_and_refuses_another_spec(place: &dyn Fn() -> Place) {
    let shards: Vec<Place> = (0..2).map(|_| place()).collect();
    let mut keys = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        let owner = format!("s{i}");
        let mut store = planned(shard, 4, &[&owner]);
        let rows = store.trials().unwrap();
        keys = rows.iter().map(|row| row.key.clone()).collect();
        let mut request = claim_request(&owner, 0);
        // Trial 1 is run by both.
        request.only =
            Some(vec![rows[i].key.clone(), rows[1].key.clone(), rows[i + 2].key.clone()]);
        while let Some(claim) = store.claim(&request).unwrap() {
            store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap();
        }
        store
            .append_event(&EventRecord {
                at: 4,
                session_id: Some(owner.clone()),
                kind: "note".to_owned(),
                detail_json: serde_json::json!({}),
            })
            .unwrap();
    }
    let target = place();
    let mut store = target.open();
    let first = merge::merge(&mut *store, &*shards[0].open(), 50).unwrap();
    assert_eq!((first.added, first.known, first.settled), (3, 0, 3));
    let second = merge::merge(&mut *store, &*shards[1].open(), 51).unwrap();
    assert_eq!((second.added, second.known, second.settled), (2, 0, 1));
    let picture = |store: &dyn Store| {
        (
            store.trials().unwrap(),
            store.metrics().unwrap().len(),
            store.points().unwrap().len(),
            store.attempts().unwrap().len(),
            store.events().unwrap(),
        )
    };
    let before = picture(&*store);
    for shard in &shards {
        let again = merge::merge(&mut *store, &*shard.open(), 60).unwrap();
        assert_eq!((again.added, again.settled), (0, 0));
    }
    assert_eq!(picture(&*store), before);
    assert!(before.0.iter().all(|row| row.status == Status::Ok && row.attempt == 1));
    let both = store.full_attempts(&keys[1]).unwrap();
    let states: Vec<_> = both.iter().map(|a| (a.attempt, a.origin_attempt, a.status)).collect();
    assert_eq!(states, [(1, None, Status::Ok), (2, Some(1), Status::Superseded)]);
    // A merge of the merged store knows them all as well.
    let far = place();
    let mut far_store = far.open();
    merge::merge(&mut *far_store, &*store, 70).unwrap();
    assert_eq!(merge::merge(&mut *far_store, &*shards[1].open(), 71).unwrap().added, 0);
    // Another spec is another experiment.
    let foreign = place();
    let mut other = foreign.open();
    other.set_experiment(&experiment("toy", "different")).unwrap();
    let error = merge::merge(&mut *store, &*other, 80).unwrap_err().to_string();
    assert!(error.contains("different") && error.contains("hash"), "{error}");
    assert!(merge::merge(&mut *store, &*place().open(), 80).is_err(), "an empty store");
}

fn foreign_results_come_in_once(make: &dyn Fn() -> Place) {
    let place = make();
    let mut store = place.open();
    let text = "method,task,rep,metric,value,status,budget,factor.lr\n\
                a,t,0,err,0.25,ok,,0.5\n\
                a,t,1,err,nan,timeout,,0.5\n\
                b,t,0,err,0.5,,10,0.5\n\
                b,t,0,err,0.125,,20,0.5\n\
                c,t,0,,,crash,,0.5\n";
    let counts = import::import(&mut *store, "foreign", text, 7).unwrap();
    assert_eq!((counts.added, counts.settled), (4, 4));
    assert_eq!(import::import(&mut *store, "foreign", text, 8).unwrap().added, 0);
    let metrics = store.metrics().unwrap();
    assert_eq!(metrics.len(), 3);
    let of = |method: &str, rep| {
        let row = store
            .trials()
            .unwrap()
            .into_iter()
            .find(|row| row.method == method && row.rep == rep)
            .unwrap();
        metrics.iter().find(|metric| metric.key == row.key).map(|metric| metric.metric.value.0)
    };
    assert_eq!(of("a", 0), Some(0.25));
    assert!(of("a", 1).unwrap().is_nan());
    assert_eq!(of("b", 0), Some(0.125), "the value at the largest budget");
    assert_eq!(of("c", 0), None);
    assert_eq!(store.points().unwrap().len(), 2);
    for (bad, word) in [
        ("method,task,rep,value\na,t,0,1\n", "metric"),
        ("method,task,rep,metric,value\na,t,x,m,1\n", "line 2"),
        ("method,task,rep,metric,value\na,t,0,m,one\n", "one"),
        ("method,task,rep,metric,value\na,t,0,m,1\na,t,0,m,2\n", "twice"),
        ("method,task,rep,metric,value,status\na,t,0,m,1,running\n", "running"),
        ("method,task,rep,metric,value\na,t,0\n", "5 cells"),
        ("", "header"),
    ] {
        let error = import::import(&mut *store, "foreign", bad, 9).unwrap_err().to_string();
        assert!(error.contains(word), "{bad:?}: {error}");
    }
    assert_eq!(store.trials().unwrap().len(), 4, "a bad text leaves nothing behind");
    // What is exported can be imported, with the same values.
    let csv = export::results(&*store).unwrap().to_csv();
    let second = make();
    let mut copy = second.open();
    import::import(&mut *copy, "foreign", &csv, 10).unwrap();
    let values = |store: &dyn Store| {
        let mut bits: Vec<u64> =
            store.metrics().unwrap().iter().map(|m| m.metric.value.0.to_bits()).collect();
        bits.sort_unstable();
        bits
    };
    assert_eq!(values(&*copy), values(&*store));
}

/// Order and values of every table, with names that collations sort in different ways.
fn every_backend_gives_the_same_tables(place: &dyn Fn() -> Place) {
    let origin = sqlite();
    let mut store = origin.open();
    store.set_experiment(&experiment("toy", "hash")).unwrap();
    let cells =
        [("Zebra", 0.0), ("apple", 0.5), ("_x", 1e-300), ("Äpfel", f64::MAX), ("a b", -0.0)];
    store.plan("hash", &trials(Stage::Main, &cells, 2)).unwrap();
    store.plan("hash", &trials(Stage::Pilot, &cells[..2], 1)).unwrap();
    for id in ["s", "B", "a"] {
        store.begin_session(&session(id)).unwrap();
    }
    let names = ["b", "B", "_", "é", "a1", "a 1"];
    let mut turn = 0;
    while let Some(claim) = store.claim(&claim_request(["s", "B", "a"][turn % 3], 0)).unwrap() {
        let mut given = attempt(&claim, [Status::Ok, Status::Timeout, Status::Lost][turn % 3]);
        for (i, name) in names.into_iter().enumerate() {
            let value = [0.1, -0.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 5e-324][i];
            given.metrics.push(common::metric(name, "validation", value));
            given.points.push(common::point(name, 3, value));
            given.points.push(common::point(name, 3, -value));
            given.artifacts.push(Artifact { name: name.to_owned(), ..given.artifacts[0].clone() });
        }
        store.finish(&claim, &given).unwrap();
        turn += 1;
    }
    let target = place();
    let mut copy = target.open();
    merge::merge(&mut *copy, &*store, 50).unwrap();
    seal::unseal(&mut *store, "compare", false, true, 60).unwrap();
    seal::unseal(&mut *copy, "compare", false, true, 60).unwrap();
    let text = |store: &dyn Store| {
        let rows = store.trials().unwrap();
        let full: Vec<_> = rows.iter().map(|row| store.full_attempts(&row.key).unwrap()).collect();
        [
            export::results(store).unwrap().to_csv(),
            export::curves(store).unwrap().to_csv(),
            serde_json::to_string(&store.attempts().unwrap()).unwrap(),
            serde_json::to_string(&store.sessions().unwrap()).unwrap(),
            serde_json::to_string(&rows).unwrap(),
            serde_json::to_string(&full).unwrap(),
        ]
    };
    let (ours, theirs) = (text(&*copy), text(&*store));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert!(ours[0].contains(",nan,") && ours[0].contains(",-inf,"), "{}", ours[0]);
    assert!(ours[0].contains(&SEALED.to_string()), "unsealed values are exported");
    assert_eq!(
        copy.result_sessions(Stage::Main).unwrap(),
        store.result_sessions(Stage::Main).unwrap()
    );
}

fn what_a_store_refuses(place: &dyn Fn() -> Place) {
    let place = place();
    let mut store = planned(&place, 1, &["a"]);
    let claim = store.claim(&claim_request("a", 0)).unwrap().unwrap();
    for status in [Status::Pending, Status::Running, Status::Superseded] {
        assert!(store.finish(&claim, &attempt(&claim, status)).is_err(), "{status:?}");
    }
    let mut stranger = attempt(&claim, Status::Ok);
    "never begun".clone_into(&mut stranger.session_id);
    assert!(store.finish(&claim, &stranger).is_err(), "an attempt without its session");
    let mut doubled = attempt(&claim, Status::Ok);
    doubled.metrics.push(doubled.metrics[0].clone());
    assert!(store.finish(&claim, &doubled).is_err(), "one metric twice");
    let mut beyond = attempt(&claim, Status::Ok);
    beyond.points[0].step = u64::MAX;
    assert!(store.finish(&claim, &beyond).is_err(), "a step beyond 2^63");
    let mut nowhere = attempt(&claim, Status::Ok);
    nowhere.points[0].budget = f64::NAN;
    assert!(store.finish(&claim, &nowhere).is_err(), "a point at no budget");
    // Each refusal left everything as it was.
    assert!(store.attempts().unwrap().is_empty());
    assert!(store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap());
    assert!(store.claim(&claim_request("a", 0)).unwrap().is_none());
}
