//! VMs under management.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use journal::effect::VmAddress;
use journal::observation::{LookAt, Machine, VmSeen};
use journal::record::{VmAdded, Work};
use journal::state::Vm;
use journal::{DiskName, State, VmId, VmName};
use serde::Deserialize;

use super::view::{AddVm, Submitted, VmDiskView, VmView};
use super::{Answer, Api, exports, vm_named};
use crate::decide::way;
use crate::drive::Refusal;

pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<VmView>> {
    let state = api.shared.state.read().await;
    let mut vms: Vec<VmView> = state.vms.values().map(|vm| view(&state, vm)).collect();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    Json(vms)
}

pub(super) async fn show(Extract(api): Extract<Api>, Path(name): Path<String>) -> Answer<VmView> {
    let look_at = {
        let state = api.shared.state.read().await;
        let id = vm_named(&state, &name)?;
        state.vms.get(&id).map(crate::drive::look_at)
    };
    let look_at = look_at.ok_or_else(|| Refusal::not_found(format!("no VM `{name}`")))?;
    let seen = api.look(look_at).await?;
    let state = api.shared.state.read().await;
    let id = vm_named(&state, &name)?;
    let Some(vm) = state.vms.get(&id) else { return Err(Refusal::not_found(format!("no VM `{name}`"))) };
    let mut view = view(&state, vm);
    match seen {
        VmSeen::Answering(machine) => {
            view.live = Some(format!("QEMU {} runs, {}", machine.version, machine.process));
            view.disks = disks(&machine);
            view.unprotected = way::exposure(&machine);
        }
        VmSeen::NotRunning { why } => view.live = Some(format!("not running: {why}")),
        VmSeen::Silent { why } => view.live = Some(format!("does not answer: {why}")),
    }
    Ok(Json(view))
}

/// Looks at the VM first: its UUID is what it is known by, and a disk that is named must be there.
pub(super) async fn add(Extract(api): Extract<Api>, Json(add): Json<AddVm>) -> Answer<VmView> {
    let name: VmName = add.name.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
    let disks = named_disks(&add)?;
    if api.shared.state.read().await.vm_named(&name).is_some() {
        return Err(taken(&name));
    }
    let look_at = LookAt { id: None, name: name.clone(), qmp: add.qmp.clone(), disks: disks.clone() };
    let machine = match api.look(look_at).await? {
        VmSeen::Answering(machine) => machine,
        VmSeen::NotRunning { why } | VmSeen::Silent { why } => {
            return Err(Refusal::failed(why));
        }
    };
    if let Some((disk, why)) = machine.unusable.first()
        && !disks.is_empty()
    {
        return Err(Refusal::usage(format!("disk {disk}: {why}")));
    }
    if machine.disks.is_empty() {
        let what =
            "QEMU shows no disk; name them with --disk NAME=NODE (`query-named-block-nodes` lists the nodes)";
        return Err(Refusal::usage(what));
    }
    let uuid = machine.uuid.unwrap_or_else(uuid::Uuid::new_v4);
    let address =
        VmAddress { id: VmId(uuid), name: name.clone(), qmp: add.qmp, guest_agent: add.guest_agent };
    let labels: Vec<(String, String)> = add.labels.into_iter().collect();
    let record = VmAdded { vm: address, disks, labels, host: Some(api.shared.host.clone()) };
    api.propose(move |state, _| {
        if state.vm_named(&name).is_some() {
            return Err(taken(&name));
        }
        if let Some(vm) = state.vms.get(&record.vm.id) {
            let other = &vm.address.name;
            return Err(Refusal::refused(format!(
                "the VM with UUID {uuid} is managed already, as {other}; give the QEMU a UUID of its own (-uuid)"
            )));
        }
        Ok((vec![record.into()], ()))
    })
    .await?;
    let state = api.shared.state.read().await;
    let vm = state.vms.get(&VmId(uuid)).ok_or_else(|| Refusal::failed("the VM was removed again"))?;
    let unprotected = way::exposure(&machine);
    Ok(Json(VmView { disks: self::disks(&machine), unprotected, ..view(&state, vm) }))
}

fn taken(name: &VmName) -> Refusal {
    Refusal::refused(format!("there is a VM `{name}` already; `vm remove {name}` lets go of it"))
}

fn named_disks(add: &AddVm) -> Result<Vec<(DiskName, String)>, Refusal> {
    let mut disks: BTreeMap<DiskName, String> = BTreeMap::new();
    for named in &add.disks {
        let name: DiskName = named.name.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
        if named.node.is_empty() {
            return Err(Refusal::usage(format!("disk {name} has no node")));
        }
        if disks.insert(name.clone(), named.node.clone()).is_some() {
            return Err(Refusal::usage(format!("disk {name} is named twice")));
        }
    }
    Ok(disks.into_iter().collect())
}

#[derive(Debug, Deserialize)]
pub(super) struct Removal {
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(
    Extract(api): Extract<Api>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer<Submitted> {
    let (vm, look_at) = {
        let state = api.shared.state.read().await;
        let id = vm_named(&state, &name)?;
        (id, state.vms.get(&id).map(crate::drive::look_at))
    };
    if let Some(look_at) = look_at.filter(|_| !removal.force)
        && let VmSeen::NotRunning { why } | VmSeen::Silent { why } = api.look(look_at).await?
    {
        let advice = "our bitmaps would stay in its images; start it first, or let go of it with --force";
        return Err(Refusal::refused(format!("{name}: {why}; {advice}")));
    }
    api.submit(move |state| {
        if let Some(export) = exports::not_over(state, vm).next() {
            let what = "whoever reads it would lose it";
            return Err(Refusal::refused(format!(
                "{name} has an export, {id}, and {what}; `export remove {id}` ends it",
                id = export.id
            )));
        }
        Ok(vec![Work::RemoveVm { vm, force: removal.force }])
    })
    .await
}

fn disks(machine: &Machine) -> Vec<VmDiskView> {
    let usable = machine.disks.iter().map(|disk| VmDiskView {
        name: disk.disk.to_string(),
        node: disk.node.clone(),
        size: Some(disk.size_bytes),
        format: Some(disk.format.clone()),
        note: match (disk.read_only, disk.stores_bitmaps) {
            (true, _) => Some("read-only: every backup of it is full".to_owned()),
            (false, false) => {
                Some("its image keeps no bitmaps: full again after each restart of QEMU".to_owned())
            }
            (false, true) => None,
        },
    });
    let unusable = machine.unusable.iter().map(|(disk, why)| VmDiskView {
        name: disk.to_string(),
        node: String::new(),
        size: None,
        format: None,
        note: Some(why.clone()),
    });
    usable.chain(unusable).collect()
}

fn view(state: &State, vm: &Vm) -> VmView {
    let points = || state.points_of(vm.address.id);
    VmView {
        id: vm.address.id.to_string(),
        name: vm.address.name.to_string(),
        qmp: vm.address.qmp.clone(),
        guest_agent: vm.address.guest_agent.clone(),
        labels: vm.labels.iter().cloned().collect(),
        host: vm.host.as_ref().map(ToString::to_string),
        added: vm.added.to_string(),
        points: points().count(),
        last_point: points().map(|point| point.created).max().map(|at| at.to_string()),
        checkpoints: vm.chain.checkpoints.len(),
        disks: vm
            .disks
            .iter()
            .map(|(name, node)| VmDiskView {
                name: name.to_string(),
                node: node.clone(),
                size: None,
                format: None,
                note: None,
            })
            .collect(),
        live: None,
        unprotected: None,
    }
}
