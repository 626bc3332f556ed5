//! Restores.

use axum::Json;
use axum::extract::State as Extract;
use journal::DiskName;
use journal::effect::{ImageFormat, RestoreTarget};
use journal::record::{RestoreWork, Work};
use journal::state::Point;

use super::view::{StartRestore, Submitted};
use super::{Answer, Api, points, word};
use crate::drive::Refusal;

pub(super) async fn start(Extract(api): Extract<Api>, Json(start): Json<StartRestore>) -> Answer<Submitted> {
    let format: ImageFormat = word("format", &start.format, "raw or qcow2")?;
    let target = if start.in_place { RestoreTarget::InPlace } else { RestoreTarget::New };
    api.submit(move |state| {
        let point = points::find(state, &start.point)?;
        let disks = disks(point, &start, format)?;
        Ok(vec![Work::Restore(RestoreWork { point: point.id, disks, format, target })])
    })
    .await
}

/// Which disks go to which images: one to the path itself, several into a folder of that name.
fn disks(
    point: &Point,
    start: &StartRestore,
    format: ImageFormat,
) -> Result<Vec<(DiskName, String)>, Refusal> {
    if !start.to.starts_with('/') {
        return Err(Refusal::usage(format!("`{}` is not an absolute path", start.to)));
    }
    if let Some(wanted) = &start.disk {
        let disk = point.disks.iter().find(|disk| disk.disk.as_str() == wanted).ok_or_else(|| {
            let all: Vec<&str> = point.disks.iter().map(|disk| disk.disk.as_str()).collect();
            Refusal::not_found(format!("{} has no disk `{wanted}`; it has {}", point.id, all.join(", ")))
        })?;
        return Ok(vec![(disk.disk.clone(), start.to.clone())]);
    }
    if let [only] = point.disks.as_slice() {
        return Ok(vec![(only.disk.clone(), start.to.clone())]);
    }
    let extension = match format {
        ImageFormat::Raw => "img",
        ImageFormat::Qcow2 => "qcow2",
    };
    let folder = start.to.trim_end_matches('/');
    let path = |disk: &DiskName| format!("{folder}/{disk}.{extension}");
    Ok(point.disks.iter().map(|disk| (disk.disk.clone(), path(&disk.disk))).collect())
}
