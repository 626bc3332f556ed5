//! Start-up: open the journal, fold it from its newest base, begin the next epoch. And how records get into the journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::base::{Keeper, Pace};
use journal::log::{AcknowledgedLoss, Entry, HEADER_BYTES, Log, LogError, Options, Position, Purpose};
use journal::record::{EpochBegan, Installed, RecordsLost};
use journal::replay::{self, Opened, ReplayError};
use journal::state::Stamp;
use journal::{Epoch, HostName, Installation, Record, State};
use tokio::sync::{RwLock, broadcast, watch};

use super::history::Index;
use super::{History, Shared, StartError, now};
use crate::Settings;
use crate::decide::host;

/// Opens the journal of a data folder, makes it if there is none, and begins the next epoch.
pub(super) async fn open(settings: &Settings) -> Result<(Arc<Shared>, Epoch), StartError> {
    let data = settings.data.clone();
    let opened = tokio::task::spawn_blocking(move || fold(&data)).await;
    let (Opened { log, mut state, recovered, base, .. }, index) = match opened {
        Ok(opened) => opened?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let thread = |what| {
        let path = crate::journal_folder(&settings.data);
        move |source| StartError::File { what, path, source }
    };
    let history = History::start(index).map_err(thread("start the thread that writes the index of"))?;
    let lost = recovered.tail_cut.and_then(|cut| {
        let lost = cut.lost?;
        Some(RecordsLost { first: *lost.start(), last: *lost.end(), what: cut.what })
    });
    if let Some(lost) = lost {
        let epoch = state.epoch.unwrap_or(Epoch(1));
        append(&log, &history, &mut state, epoch, &[lost.into()]).await?;
    }
    let epoch = state.epoch.map_or(Epoch(1), Epoch::next);
    let mut records: Vec<Record> = Vec::new();
    if state.installation.is_none() {
        // Drawn here, recorded, and from then on read from the record.
        let (mark, ..) = uuid::Uuid::new_v4().as_fields();
        records.push(Installed { installation: Installation(mark) }.into());
    }
    records
        .push(EpochBegan { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }.into());
    append(&log, &history, &mut state, epoch, &records).await?;
    claim(&log, &history, &mut state, epoch, &settings.host).await?;
    let follow = history.clone();
    let bases = Keeper::start(&log, base, Pace::default(), Box::new(move |seq| follow.reach(seq)));
    let bases = bases.map_err(thread("start the thread that writes the bases of"))?;
    let shared = Shared {
        state: RwLock::new(state),
        progress: std::sync::RwLock::new(BTreeMap::new()),
        changed: watch::Sender::new(0),
        log,
        bases,
        journal: crate::journal_folder(&settings.data),
        history,
        counters: std::sync::Mutex::default(),
        host: settings.host.clone(),
        limits: settings.limits,
        receivers: settings.receivers.iter().map(|receiver| receiver.name.clone()).collect(),
        tries: broadcast::Sender::new(64),
    };
    Ok((Arc::new(shared), epoch))
}

/// Records where the VMs are, where that is not what the journal says: before anything is decided that rests on it.
pub(super) async fn claim(
    log: &Log,
    history: &History,
    state: &mut State,
    epoch: Epoch,
    host: &HostName,
) -> Result<(), StartError> {
    let claimed = host::claim(state, host);
    if claimed.is_empty() {
        return Ok(());
    }
    let vms = claimed.len();
    if let Some(full) = held_back(log, state, &claimed).await {
        tracing::warn!(%host, vms, %full, "that these VMs are on this host is recorded at a later start: the journal's disk is full");
        return Ok(());
    }
    tracing::info!(%host, vms, "these VMs are on this host from now on: it had another name, or none was recorded");
    append(log, history, state, epoch, &claimed).await.map(|_| ())
}

/// Folds the journal, and brings the history index up to date with it. A base newer than what the index has seen is not
/// taken: the records before it are what the index is made of. Where those cannot be read any more, the index begins at
/// the end.
pub(super) fn fold(data: &Path) -> Result<(Opened, Index), StartError> {
    let journal = crate::journal_folder(data);
    let mut index = Index::open(&data.join("index"))?;
    if !index.is_of(&journal) {
        tracing::info!("the history index is of another journal: it is made anew");
        index = index.anew()?;
    }
    let (mut opened, mut index) = fold_into(&journal, index)?;
    let last = opened.recovered.last.map_or(0, |last| last.seq);
    if index.through() > last {
        tracing::info!(last, "the history index has seen records that the journal lost: it is made anew");
        // What was found and mended at the first opening is not found again.
        let recovered = opened.recovered;
        drop(opened.log);
        (opened, index) = fold_into(&journal, index.anew()?)?;
        opened.recovered = recovered;
    }
    tracing::info!(
        base = opened.base,
        records = opened.recovered.frames_replayed,
        open = opened.state.open.len(),
        vms = opened.state.vms.len(),
        points = opened.state.points.len(),
        "the journal is replayed"
    );
    Ok((opened, index))
}

/// An end that was cut off is what a crash of the host or of its storage leaves: reconcile heals what it lost.
fn options() -> Options {
    Options { acknowledged_loss: AcknowledgedLoss::AcceptCut, ..Options::default() }
}

fn fold_into(journal: &Path, mut index: Index) -> Result<(Opened, Index), StartError> {
    let through = index.through();
    let mut catch_up = index.catch_up(journal);
    let each = |seq, state: &State, record: &Record| catch_up.take(seq, state, record);
    match replay::open(journal, &options(), through, each) {
        Ok(opened) => {
            catch_up.finish();
            Ok((opened, index))
        }
        Err(ReplayError::Log(
            why @ (LogError::Damaged(_) | LogError::NotHere { .. } | LogError::NotOnChain { .. }),
        )) => fold_without(journal, index, why),
        Err(error) => Err(error.into()),
    }
}

/// From the newest base, whatever the index lacks. Where that does not help, what the records themselves said stands.
fn fold_without(journal: &Path, index: Index, why: LogError) -> Result<(Opened, Index), StartError> {
    let Ok(opened) = replay::open(journal, &options(), u64::MAX, |_, _, _| {}) else {
        return Err(why.into());
    };
    let mut index = index.anew()?;
    if let Some(last) = opened.recovered.last {
        tracing::warn!(
            %why, last = last.seq,
            "the records that the history index is made of cannot be read, so that it begins here: bring them back, and \
             remove the folder `index` while Backstay is stopped, to have all of it"
        );
        index.seed(&opened.state, last);
    }
    Ok((opened, index))
}

/// What was appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Appended {
    /// Where the journal stands.
    pub at: Position,
    /// Bytes of frames.
    pub bytes: u64,
    /// How long it took to make them durable.
    pub took: Duration,
}

/// Why these records are not to be appended now: the disk is full, and they begin something new. To be asked before
/// [`append`], which folds them in first.
pub(super) async fn held_back(log: &Log, state: &State, records: &[Record]) -> Option<LogError> {
    if purpose(state, records) == Purpose::Recovery {
        return None;
    }
    // What cannot be encoded is `append`'s to say.
    let encoded = records.iter().filter_map(|record| record.encode().ok());
    let bytes = encoded.map(|encoded| (HEADER_BYTES + encoded.body.len()) as u64).sum();
    log.make_room(bytes).await.err().filter(|error| matches!(error, LogError::Full { .. }))
}

fn purpose(state: &State, records: &[Record]) -> Purpose {
    let begins = |record: &Record| match record {
        Record::JobStarted(it) => !state.jobs.get(&it.job).is_some_and(|job| job.work.frees_room()),
        record => record.is_new_work(),
    };
    if records.iter().any(begins) { Purpose::Work } else { Purpose::Recovery }
}

/// Folds records in and appends them; they are durable when this returns. The state is folded first, so that a record
/// that cannot follow the others never reaches the journal; whoever holds the state lets nobody read it before.
pub(super) async fn append(
    log: &Log,
    history: &History,
    state: &mut State,
    epoch: Epoch,
    records: &[Record],
) -> Result<Appended, StartError> {
    let time = now();
    let purpose = purpose(state, records);
    let mut entries = Vec::with_capacity(records.len());
    let mut notes = Vec::with_capacity(records.len());
    let mut bytes = 0;
    // There is no other writer: what is durable now is what these records follow, and then ends with them.
    let seq = log.durable().borrow().seq;
    for (seq, record) in (seq + 1..).zip(records) {
        let applied = state.apply(Stamp { epoch, time }, record);
        applied.map_err(|source| ReplayError::Illegal { seq, source })?;
        notes.push(history.note(seq, time, state, record));
        let encoded = record.encode()?;
        bytes += (HEADER_BYTES + encoded.body.len()) as u64;
        entries.push(Entry {
            kind: encoded.kind,
            version: encoded.version,
            epoch: epoch.0,
            time: time.0,
            body: encoded.body,
        });
    }
    let begun = Instant::now();
    log.append_for(purpose, entries).await?;
    let took = begun.elapsed();
    let at = *log.durable().borrow();
    history.take(notes, at);
    Ok(Appended { at, bytes, took })
}
