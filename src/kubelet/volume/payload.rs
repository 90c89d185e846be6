//! Volumes whose files come from the API: ConfigMaps, Secrets, service-account tokens, pod fields. Keeps
//! true: secrets lie in memory only (tmpfs); a token is asked for again when most of its life is over.

use std::{collections::BTreeMap, fs};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, ServiceAccountTokenProjection};

use super::{Mounted, Setup, atomic, atomic::Files, make_dir, mounted, own_by_group, tmpfs};
use crate::{
    Error,
    error::Result,
    pod::{env, find, namespace, resources, spec},
};

/// Modes of files unless the volume says otherwise.
const MODE: i32 = 0o644;
/// A token's life in seconds unless the volume says otherwise.
const TOKEN_LIFE: i64 = 3600;

type Data = BTreeMap<String, Vec<u8>>;

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(MODE)).unwrap_or(0o644) & 0o7777
}

/// A reference to an object: what it is called in texts, its name, and whether it may be missing.
struct Reference<'a> {
    kind: &'static str,
    name: &'a str,
    optional: bool,
}

async fn config_map_data(setup: &Setup<'_>, reference: &Reference<'_>) -> Result<Data> {
    let found = setup.context.cluster.config_map(namespace(setup.pod), reference.name).await?;
    let data = found.map(|map| {
        let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)))
            .collect()
    });
    present(reference, data)
}

async fn secret_data(setup: &Setup<'_>, reference: &Reference<'_>) -> Result<Data> {
    let found = setup.context.cluster.secret(namespace(setup.pod), reference.name).await?;
    let data = found.map(|secret| {
        secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    });
    present(reference, data)
}

fn present(reference: &Reference<'_>, data: Option<Data>) -> Result<Data> {
    match data {
        Some(data) => Ok(data),
        None if reference.optional => Ok(Data::new()),
        None => Err(Error::Volume(format!("{} \"{}\" not found", reference.kind, reference.name))),
    }
}

fn pick(
    files: &mut Files,
    data: Data,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
) -> Result<()> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(key, value)| (key, (value, mode(None, default)))));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                files.insert(item.path.clone(), (value.clone(), mode(item.mode, default)));
            }
            None if optional => {}
            None => return Err(Error::Volume(format!("references non-existent config key: {}", item.key))),
        }
    }
    Ok(())
}

fn finish(setup: &Setup<'_>, files: &Files) -> Result<Mounted> {
    if atomic::write(&setup.directory, files)? {
        own_by_group(&setup.directory, setup.pod, false)?;
    }
    Ok(mounted(setup, true))
}

pub(super) async fn config_map(setup: Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.config_map.clone().unwrap_or_default();
    let optional = source.optional == Some(true);
    let data =
        config_map_data(&setup, &Reference { kind: "configmap", name: &source.name, optional }).await?;
    make_dir(&setup.directory, 0o777)?;
    let mut files = Files::new();
    pick(&mut files, data, source.items.as_ref(), source.default_mode, optional)?;
    finish(&setup, &files)
}

pub(super) async fn secret(setup: Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.secret.clone().unwrap_or_default();
    let optional = source.optional == Some(true);
    let name = source.secret_name.clone().unwrap_or_default();
    let data = secret_data(&setup, &Reference { kind: "secret", name: &name, optional }).await?;
    in_memory(&setup)?;
    let mut files = Files::new();
    pick(&mut files, data, source.items.as_ref(), source.default_mode, optional)?;
    finish(&setup, &files)
}

fn in_memory(setup: &Setup<'_>) -> Result<()> {
    make_dir(&setup.directory, 0o777)?;
    tmpfs(&setup.directory, None, 0o777)
}

pub(super) async fn downward_api(setup: Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.downward_api.clone().unwrap_or_default();
    make_dir(&setup.directory, 0o777)?;
    let mut files = Files::new();
    fields(&setup, source.items.as_deref().unwrap_or_default(), source.default_mode, &mut files)?;
    finish(&setup, &files)
}

fn fields(
    setup: &Setup<'_>,
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
    files: &mut Files,
) -> Result<()> {
    let spec = spec(setup.pod);
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            env::field(setup.pod, &field.field_path, setup.ips, &setup.context.host)
        } else if let Some(field) = &item.resource_field_ref {
            let container = field.container_name.as_deref().and_then(|name| find(&spec, name));
            let divisor = field.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
            container
                .and_then(|one| resources::field(one, &field.resource, divisor, &setup.context.allocatable))
        } else {
            None
        };
        let value =
            value.ok_or_else(|| Error::Volume(format!("cannot resolve the field for {}", item.path)))?;
        files.insert(item.path.clone(), (value.into_bytes(), mode(item.mode, default)));
    }
    Ok(())
}

pub(super) async fn projected(setup: Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.projected.clone().unwrap_or_default();
    in_memory(&setup)?;
    let default = source.default_mode;
    let mut files = Files::new();
    for part in source.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            let optional = map.optional == Some(true);
            let data =
                config_map_data(&setup, &Reference { kind: "configmap", name: &map.name, optional }).await?;
            pick(&mut files, data, map.items.as_ref(), default, optional)?;
        }
        if let Some(secret) = &part.secret {
            let optional = secret.optional == Some(true);
            let data =
                secret_data(&setup, &Reference { kind: "secret", name: &secret.name, optional }).await?;
            pick(&mut files, data, secret.items.as_ref(), default, optional)?;
        }
        if let Some(downward) = &part.downward_api {
            fields(&setup, downward.items.as_deref().unwrap_or_default(), default, &mut files)?;
        }
        if let Some(projection) = &part.service_account_token {
            let token = token(&setup, projection).await?;
            files.insert(projection.path.clone(), (token.into_bytes(), token_mode(&setup, default)));
        }
    }
    finish(&setup, &files)
}

/// A pod that runs as somebody else must be able to read its token, and nobody else.
fn token_mode(setup: &Setup<'_>, default: Option<i32>) -> u32 {
    let context = spec(setup.pod).security_context.clone().unwrap_or_default();
    if context.fs_group.is_some() { 0o640 } else { mode(None, default) }
}

async fn token(setup: &Setup<'_>, projection: &ServiceAccountTokenProjection) -> Result<String> {
    let life = projection.expiration_seconds.unwrap_or(TOKEN_LIFE);
    let file = setup.directory.join(&projection.path);
    if let Ok(known) = fs::read_to_string(&file)
        && !is_old(&file, life)
    {
        return Ok(known);
    }
    let audience = projection.audience.as_deref().filter(|audience| !audience.is_empty());
    setup.context.cluster.token(setup.pod, audience, life).await
}

/// Four fifths of its life, or a day: then a new one.
fn is_old(file: &std::path::Path, life: i64) -> bool {
    let written = fs::metadata(file).and_then(|metadata| metadata.modified());
    let age = written.ok().and_then(|time| time.elapsed().ok()).map_or(u64::MAX, |age| age.as_secs());
    age > u64::try_from(life * 4 / 5).unwrap_or(0).min(24 * 3600)
}
