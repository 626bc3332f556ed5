//! The rows of the reconcile table: a label for records and tests, and why the verdict is right.

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Row {
    OpenSameProcess,
    OpenNewProcessThere,
    OpenNewProcessNotThere,
    OpenElsewhere,
    OpenFreeze,
    OpenFreezeNewProcess,
    ViewUp,
    ViewBroken,
    ViewNewProcess,
    ViewWithoutJob,
    ThawOwed,
    Tracked,
    TrackedTwice,
    Inconsistent,
    NotRecording,
    MissingSameProcess,
    MissingNewProcess,
    OutsideSnapshot,
    ImageMoved,
    BackingChanged,
    DiskAway,
    Leftover,
    LeftoverStuck,
    Foreign,
    PointGone,
}

impl Row {
    /// Every row.
    pub const ALL: [Row; 25] = [
        Row::OpenSameProcess,
        Row::OpenNewProcessThere,
        Row::OpenNewProcessNotThere,
        Row::OpenElsewhere,
        Row::OpenFreeze,
        Row::OpenFreezeNewProcess,
        Row::ViewUp,
        Row::ViewBroken,
        Row::ViewNewProcess,
        Row::ViewWithoutJob,
        Row::ThawOwed,
        Row::Tracked,
        Row::TrackedTwice,
        Row::Inconsistent,
        Row::NotRecording,
        Row::MissingSameProcess,
        Row::MissingNewProcess,
        Row::OutsideSnapshot,
        Row::ImageMoved,
        Row::BackingChanged,
        Row::DiskAway,
        Row::Leftover,
        Row::LeftoverStuck,
        Row::Foreign,
        Row::PointGone,
    ];

    /// The label that records and `doctor` show.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Row::OpenSameProcess => "open-same-process",
            Row::OpenNewProcessThere => "open-new-process-there",
            Row::OpenNewProcessNotThere => "open-new-process-not-there",
            Row::OpenElsewhere => "open-elsewhere",
            Row::OpenFreeze => "open-freeze",
            Row::OpenFreezeNewProcess => "open-freeze-new-process",
            Row::ViewUp => "view-up",
            Row::ViewBroken => "view-broken",
            Row::ViewNewProcess => "view-new-process",
            Row::ViewWithoutJob => "view-without-job",
            Row::ThawOwed => "thaw-owed",
            Row::Tracked => "tracked",
            Row::TrackedTwice => "tracked-twice",
            Row::Inconsistent => "inconsistent",
            Row::NotRecording => "not-recording",
            Row::MissingSameProcess => "missing-same-process",
            Row::MissingNewProcess => "missing-new-process",
            Row::OutsideSnapshot => "outside-snapshot",
            Row::ImageMoved => "image-moved",
            Row::BackingChanged => "backing-changed",
            Row::DiskAway => "disk-away",
            Row::Leftover => "leftover",
            Row::LeftoverStuck => "leftover-stuck",
            Row::Foreign => "foreign",
            Row::PointGone => "point-gone",
        }
    }

    /// Why the row's verdict is right.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Row::OpenSameProcess => {
                "the effect looks before it acts, so that repeating it in the same QEMU finishes what was begun"
            }
            Row::OpenNewProcessThere => {
                "the transaction ran, and QEMU stored its bitmaps when it ended in order: all or nothing"
            }
            Row::OpenNewProcessNotThere => "what is not there after QEMU's end will not come any more",
            Row::OpenElsewhere => "it does not depend on the QEMU process, and looks before it acts",
            Row::OpenFreeze => "a guest must not stay frozen for a backup that is not on its way",
            Row::OpenFreezeNewProcess => "a freeze ends with the guest's memory",
            Row::ViewUp => "QEMU still holds the instant, so that the backup can go on",
            Row::ViewBroken => "a view with a part missing can no longer be read as one instant",
            Row::ViewNewProcess => "a view ends with its QEMU process",
            Row::ViewWithoutJob => "nobody will read it any more, and it costs scratch space",
            Row::ThawOwed => "every freeze is followed by a thaw, whatever happened in between",
            Row::Tracked => "only the newest bitmap of a disk records, and all of them are whole",
            Row::TrackedTwice => {
                "an older bitmap that records too is a superset: safe, and stopped at the next checkpoint"
            }
            Row::Inconsistent => "QEMU died while the bitmap was in use, so that what it lacks is unknown",
            Row::NotRecording => "writes went by unseen since it stopped",
            Row::MissingSameProcess => "somebody removed it, and the changes that it held are unknown",
            Row::MissingNewProcess => {
                "QEMU ended without storing it, and the changes that it held are unknown"
            }
            Row::OutsideSnapshot => {
                "what the guest writes now goes into the new image, and no bitmap has recorded it from its first instant"
            }
            Row::ImageMoved => "a bitmap says what changed on its own disk, and nothing of another",
            Row::BackingChanged => {
                "a bitmap records what is written through its image, and not what is changed below it"
            }
            Row::DiskAway => "its bitmaps go with it; when it comes back they are looked at again",
            Row::Leftover => "it carries our mark, and nothing in the journal explains it any more",
            Row::LeftoverStuck => {
                "QEMU removes no bitmap that is busy or on a read-only node; it does no harm meanwhile"
            }
            Row::Foreign => "it does not carry our mark: seen, shown, never touched, never counted on",
            Row::PointGone => "the repository is the truth for which restore points there are",
        }
    }
}
