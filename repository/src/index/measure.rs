//! A measurement, not a test: how long an index of ten million chunks takes to open, and how much memory. By hand, in
//! release: `scripts/bench index`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::key_file::KeyDerivation;
use crate::local::Local;
use crate::open::InitOptions;
use crate::parallel;
use crate::repository::Repository;

/// Chunks of 256 KiB that do not compress, in a pack.
const BLOBS_PER_PACK: u64 = 65;

fn pack(number: u64) -> IndexPack {
    let blobs = number * BLOBS_PER_PACK..(number + 1) * BLOBS_PER_PACK;
    let length = (256 << 10) + 32;
    let entry = |(place, blob): (u32, u64)| BlobEntry {
        id: Digest::of(&blob.to_le_bytes()),
        kind: BlobKind::Data,
        offset: place * length,
        // As most are: compressed.
        length: length - u32::try_from(blob % 100_000).unwrap(),
        raw_length: 256 << 10,
    };
    IndexPack { id: PackId::of(&number.to_be_bytes()), blobs: (0..).zip(blobs).map(entry).collect() }
}

/// A line of `/proc/self/status`, in bytes.
fn memory(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = text.lines().find_map(|it| it.strip_prefix(line)?.strip_suffix("kB")).unwrap();
    found.trim_start_matches(':').trim().parse::<u64>().unwrap() << 10
}

fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "a measurement: a minute and a gigabyte"]
fn ten_million_chunks() {
    let wanted: u64 =
        std::env::var("BACKSTAY_INDEX_BLOBS").ok().map_or(10_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions {
        key_derivation: KeyDerivation::Fixed { log_n: 10, r: 8, p: 1 },
        ..InitOptions::default()
    };
    let made = Repository::init(Arc::new(Local::new(folder.path())), "password", &options).unwrap();
    let packs_per_file = BLOBS_PER_FILE as u64 / BLOBS_PER_PACK;
    let files = (0..wanted.div_ceil(packs_per_file * BLOBS_PER_PACK)).collect::<Vec<_>>();
    parallel::each(2, &files, |file| {
        let packs = (file * packs_per_file..(file + 1) * packs_per_file).map(pack).collect();
        made.inner.store.write_json(FileKind::Index, &IndexFile::of(packs)).map(drop)
    })
    .unwrap();
    let stored =
        made.inner.store.backend.list(FileKind::Index).unwrap().iter().map(|file| file.size).sum::<u64>();
    drop(made);

    let repository = Repository::open(Arc::new(Local::new(folder.path())), "password").unwrap();
    // From here on the peak is that of opening.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, start, busy) = (memory("VmRSS"), Instant::now(), processor_seconds());
    repository.refresh().unwrap();
    let (opened, busy) = (start.elapsed(), processor_seconds() - busy);
    let blobs = repository.blob_count() as u64;
    let (held, peak) = (memory("VmRSS") - before, memory("VmHWM") - before);
    assert_eq!(blobs, files.len() as u64 * packs_per_file * BLOBS_PER_PACK);

    let index = &repository.inner.index;
    let sample = (0..1_000_000_u64).map(|blob| Digest::of(&(blob * 7).to_le_bytes())).collect::<Vec<_>>();
    let start = Instant::now();
    let found = sample.iter().filter(|digest| index.contains(BlobKind::Data, digest)).count();
    let lookup = start.elapsed() / u32::try_from(sample.len()).unwrap();
    assert!(found as u64 >= sample.len() as u64 / 8);
    let start = Instant::now();
    repository.refresh().unwrap();
    let again = start.elapsed();
    let small = IndexFile::of(vec![pack(1 << 40), pack(1 << 41)]);
    let start = Instant::now();
    index.add(FileId([7; 32]), &small);
    let added = start.elapsed();
    println!(
        "{{\"blobs\": {blobs}, \"index_bytes\": {stored}, \"open_seconds\": {:.2}, \"open_cpu_seconds\": {busy:.2}, \
         \"held_bytes\": {held}, \"held_per_blob\": {:.1}, \"peak_bytes\": {peak}, \"peak_per_blob\": {:.1}, \
         \"lookup_nanoseconds\": {}, \"refresh_milliseconds\": {:.1}, \"add_130_milliseconds\": {:.1}}}",
        opened.as_secs_f64(),
        held as f64 / blobs as f64,
        peak as f64 / blobs as f64,
        lookup.as_nanos(),
        again.as_secs_f64() * 1e3,
        added.as_secs_f64() * 1e3,
    );
}
