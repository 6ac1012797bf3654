//! Writes or deletes one object, unless there is an object of that name that isn't Atlas's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use atlas_core::kubernetes::apply::{ObjectAction, is_ours};
use atlas_core::kubernetes::object::{ObjectKey, ObjectKind};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::value;
use crate::kube::MANAGER;

/// How old a list of names may be.
const NAMES_TTL: Duration = Duration::from_secs(2);

/// The names of all objects of a kind in the namespace, Atlas's or not: when a whole fleet is
/// written for the first time, one list replaces a read of each object.
#[derive(Default)]
pub struct NameCache(tokio::sync::Mutex<BTreeMap<ObjectKind, (Instant, BTreeSet<String>)>>);

impl NameCache {
    /// Whether there was an object of this name at most [`NAMES_TTL`] ago.
    async fn contains(&self, api: &Api<DynamicObject>, key: &ObjectKey) -> anyhow::Result<bool> {
        let mut cache = self.0.lock().await;
        if cache.get(&key.kind).is_none_or(|(at, _)| at.elapsed() > NAMES_TTL) {
            let listed = api.list_metadata(&ListParams::default()).await?;
            let names = listed.items.iter().map(ResourceExt::name_any).collect();
            cache.insert(key.kind, (Instant::now(), names));
        }
        Ok(cache.get(&key.kind).is_some_and(|(_, names)| names.contains(&key.name)))
    }
}

/// What was done, or that the object isn't Atlas's.
pub enum Executed {
    Applied(Value),
    Deleted,
    NotOurs,
}

/// Writes or deletes an object. `names`: asked whether an object exists, instead of a request for
/// each.
///
/// # Errors
/// The API server refuses, or doesn't answer.
pub async fn execute(
    api: &Api<DynamicObject>,
    action: &ObjectAction,
    names: Option<&NameCache>,
) -> anyhow::Result<Executed> {
    match action {
        ObjectAction::Apply { key, manifest, ours } => {
            // An object that is there and that no watch showed isn't Atlas's, unless it is only a
            // moment old.
            let may_exist = match names {
                _ if *ours => false,
                Some(names) => names.contains(api, key).await?,
                None => true,
            };
            if may_exist
                && let Some(there) = api.get_opt(&key.name).await?
                && !is_ours(&value(there))
            {
                return Ok(Executed::NotOurs);
            }
            // Without force, an object that was created since then and says something else is a
            // conflict.
            let params = if *ours {
                PatchParams::apply(MANAGER).force()
            } else {
                PatchParams::apply(MANAGER)
            };
            match api.patch(&key.name, &params, &Patch::Apply(&**manifest)).await {
                Ok(applied) => Ok(Executed::Applied(value(applied))),
                Err(kube::Error::Api(status)) if status.code == 409 && !ours => {
                    Ok(Executed::NotOurs)
                }
                Err(error) => Err(error.into()),
            }
        }
        ObjectAction::Delete { key, uid } => {
            let exactly = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(exactly), ..Default::default() };
            match api.delete(&key.name, &params).await {
                Ok(_) => Ok(Executed::Deleted),
                // It is gone, or another object has its name by now: the watch shows which.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    Ok(Executed::Deleted)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}
