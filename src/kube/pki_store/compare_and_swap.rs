//! One write of a Secret, compared with the version that was read, and the claim of a new
//! leadership.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use atlas_core::kubernetes::lease::fence::{Claim, Fence, KnownVersion, WritePermit};
use atlas_core::kubernetes::lease::{ResourceVersion, Term, WriteResult};
use atlas_core::name::TrustDomain;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::timeout;

use crate::kube::MANAGER;
use crate::kube::election::Candidate;
use crate::kube::errors::error_with_causes;
use crate::kube::pki_secret::{PkiSecret, StoredSecret};

/// How long one answer may take: a reconcile waits for it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Ensures that the root is there, if this process knows certificates below it. Where it is
/// missing, the API server has lost its data, and a new root would be trusted by no Envoy. Nothing
/// is written before this is known.
///
/// # Errors
/// The root is missing, or can't be read.
pub async fn ensure_root_exists(api: &Api<Secret>) -> anyhow::Result<()> {
    let name = PkiSecret::Root.name();
    let root = timeout(REQUEST_TIMEOUT, api.get_opt(&name))
        .await
        .context("no answer")?
        .context("cannot read the Secret with the root")?;
    ensure!(
        root.is_some(),
        "the API server no longer has the Secret {name}, below which everything that is in force was issued: it has lost its memory, or \
         somebody deleted it. Nothing is written, and everything stays as it was: restore the backup and restart Atlas. To start anew \
         instead, delete every Secret with the label goatlas.io/part in (issuers, pki) and restart Atlas; then each cluster needs new values"
    );
    Ok(())
}

/// Writes the term, and nothing else, into the Secret with the issuers: from then on no earlier
/// leader can write it.
///
/// # Errors
/// This process doesn't lead, or the write wasn't acknowledged.
pub async fn claim(
    api: &Api<Secret>,
    candidate: &Candidate,
    term: Term,
    domain: &TrustDomain,
) -> anyhow::Result<Fence> {
    let read = timeout(REQUEST_TIMEOUT, api.get_opt(&PkiSecret::Issuers.name()))
        .await
        .context("no answer")?;
    let read = read.context("cannot read the Secret with the issuing authorities")?;
    let stored = read.map(|object| StoredSecret::read(object, domain));
    if let Some(by) = stored.as_ref().and_then(|stored| stored.term.as_ref()) {
        candidate.observe_term(by);
    }
    let known = stored.as_ref().map_or(KnownVersion::Absent, StoredSecret::known_version);
    let claim = Claim::new(term);
    let permit = claim.permit_write(&known, candidate.leads().as_ref())?;
    let result = match write(api, &PkiSecret::Issuers, &BTreeMap::new(), &permit).await {
        Ok(version) => WriteResult::Done(version),
        Err((_, error)) => return Err(error.context("cannot take over as leader")),
    };
    claim.written(&result).map_err(|_| anyhow!("BUG: a claim that was written was not"))
}

/// Creates a Secret, or patches the version that the permit expects.
///
/// # Errors
/// What is known of the write, and why it failed.
pub async fn write(
    api: &Api<Secret>,
    secret: &PkiSecret,
    data: &BTreeMap<&'static str, Option<String>>,
    permit: &WritePermit,
) -> Result<ResourceVersion, (WriteResult, anyhow::Error)> {
    let name = secret.name();
    let manifest = secret.manifest(data, &permit.term, permit.expected.as_ref());
    let written = async {
        match &permit.expected {
            None => {
                let object: Secret =
                    serde_json::from_value(manifest).map_err(kube::Error::SerdeError)?;
                api.create(
                    &PostParams { field_manager: Some(MANAGER.into()), ..Default::default() },
                    &object,
                )
                .await
            }
            Some(_) => {
                let params =
                    PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
                api.patch(&name, &params, &Patch::Merge(manifest)).await
            }
        }
    };
    let Ok(written) = timeout(REQUEST_TIMEOUT, written).await else {
        return Err((
            WriteResult::Unknown,
            anyhow!("no answer to the write of the Secret {name}: it is read again"),
        ));
    };
    match written {
        Ok(object) => Ok(ResourceVersion(object.metadata.resource_version.unwrap_or_default())),
        Err(kube::Error::Api(status))
            if status.code == 409 || permit.expected.is_some() && status.code == 404 =>
        {
            Err((
                WriteResult::Conflict,
                anyhow!(
                    "the Secret {name} is not as it was read: somebody else wrote it; it is read again"
                ),
            ))
        }
        Err(error) => Err((
            WriteResult::Unknown,
            anyhow!("cannot write the Secret {name}: {}", error_with_causes(&error)),
        )),
    }
}
