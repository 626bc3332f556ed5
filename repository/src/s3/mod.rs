//! A repository in an object store that speaks S3, laid out as restic does it.
//!
//! Owns the mapping of files to objects, and the patience with a network: every request ends, what may be repeated is
//! repeated with growing pauses, large files go up in parts of which only the broken one is sent again. An object is
//! there whole or not at all; that is the store's promise. Knows nothing of what the files contain.

mod address;
mod credentials;
mod error;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload,
    Result, RetryConfig,
};
use tokio::runtime::Runtime;

use crate::backend::{Backend, BackendError, FileKind, FileName, Listed, Stamp};
use crate::pace::{Pace, Rate};
use address::Address;
use credentials::Profile;
use wire::Wire;

/// Files up to this size go up in one request: an ordinary pack does.
const WHOLE: usize = 20 << 20;
/// The parts of larger ones. Of 10,000 that a store takes at most, a pack never needs more than a few.
const PART: usize = 8 << 20;

/// How long a network may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection to be there.
    pub connect: Duration,
    /// Without any byte moving.
    pub stall: Duration,
    /// With repeating what failed.
    pub retry: Duration,
}

impl Patience {
    const FIRST: Self = Self {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(15),
        retry: Duration::from_secs(15),
    };
    const LASTING: Self = Self {
        connect: Duration::from_secs(10),
        stall: Duration::from_secs(60),
        retry: Duration::from_secs(180),
    };
}

/// How an object store is used.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// With the configuration, which is read first: whoever gave a wrong URL, or whose network is down, is told soon.
    pub first: Patience,
    /// With everything else: a store that restarts, or asks to slow down, is no reason to lose hours of work.
    pub lasting: Patience,
    /// Whose requests these are; without it, as the usual environment and files say.
    pub key: Option<AccessKey>,
    /// How fast bytes may go.
    pub rates: Vec<Rate>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self { first: Patience::FIRST, lasting: Patience::LASTING, key: None, rates: Vec::new() }
    }
}

/// A key of an object store's user.
#[derive(Clone)]
pub struct AccessKey {
    /// Its id, which is no secret.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKey({}, …)", self.id)
    }
}

/// A bucket, or a part of one.
#[derive(Debug)]
pub struct S3 {
    address: Address,
    /// Where the credentials come from, for people.
    keys: String,
    store: AmazonS3,
    /// The same, with less patience.
    first: AmazonS3,
    /// Drives the requests; none only while it is dropped.
    runtime: Option<Runtime>,
}

impl S3 {
    /// The repository at `url`; asks nobody yet.
    ///
    /// # Errors
    /// [`BackendError::Refused`] when the URL makes no sense, or there are no credentials for it.
    pub fn at(url: &str, options: &S3Options) -> std::result::Result<Self, BackendError> {
        let at =
            |place: String| move |what: String| BackendError::Refused { path: place.clone().into(), what };
        let address = Address::parse(url).map_err(at("the repository's URL".to_owned()))?;
        let refused = at(address.to_string());
        let (builder, keys) = configure(&address, options.key.as_ref()).map_err(&refused)?;
        let pace = Arc::new(Pace::of(&options.rates));
        let store = |patience: Patience| {
            let wire = Wire::new(patience.connect, patience.stall, Arc::clone(&pace))?;
            let retry = RetryConfig {
                max_retries: usize::MAX,
                retry_timeout: patience.retry,
                backoff: BackoffConfig::default(),
            };
            let builder = builder.clone().with_http_connector(wire).with_retry(retry);
            builder.build().map_err(|error| wire::root(&error))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("repository-s3")
            .enable_all()
            .build()
            .map_err(|error| BackendError::from_io(address.to_string(), error))?;
        Ok(Self {
            store: store(options.lasting).map_err(&refused)?,
            first: store(options.first).map_err(&refused)?,
            runtime: Some(runtime),
            address,
            keys,
        })
    }

    /// What lies at `path` below the root, spelled as it is.
    fn below(&self, path: &str) -> Path {
        let path = format!("{}/{path}", self.address.prefix);
        Path::parse(path.trim_start_matches('/'))
            .expect("the prefix was parsed, and restic's names are plain")
    }

    fn key(&self, name: &FileName) -> Path {
        self.below(&name.path())
    }

    fn place(&self, name: &FileName) -> String {
        format!("{}/{name}", self.address)
    }

    /// Less patience with the configuration, with which everything begins.
    fn store(&self, name: &FileName) -> AmazonS3 {
        if *name == FileName::Config { self.first.clone() } else { self.store.clone() }
    }

    /// Runs a request to its end, on a thread of the runtime's: the caller may be one of another runtime.
    fn run<T: Send + 'static>(
        &self,
        place: impl FnOnce() -> String,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::result::Result<T, BackendError> {
        let (tell, told) = mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is there until the value is dropped");
        runtime.spawn(async move {
            // Whoever asked waits below.
            let _ = tell.send(request.await);
        });
        match told.recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error::explain(place(), &self.keys, &error)),
            Err(_) => {
                Err(BackendError::from_io(place(), std::io::Error::other("the request ended in a panic")))
            }
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Nothing runs on it any more, and to wait for its thread is not allowed everywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Everything but patience, and where the credentials come from.
fn configure(
    address: &Address,
    key: Option<&AccessKey>,
) -> std::result::Result<(AmazonS3Builder, String), String> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&address.bucket)
        // Not every store deletes several at once.
        .with_disable_bulk_delete(true);
    let profile = Profile::chosen();
    let settings = profile.settings()?;
    if builder.get_config_value(&Key::Region).is_none()
        && let Some(region) = settings.region
    {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &address.endpoint {
        // The one for S3 alone counts more than the other, and may be in the environment.
        builder = builder.with_config(Key::S3Endpoint, endpoint);
        builder = builder.with_virtual_hosted_style_request(false);
    } else if builder.get_config_value(&Key::Endpoint).is_none()
        && builder.get_config_value(&Key::S3Endpoint).is_none()
        && let Some(endpoint) = settings.endpoint
    {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(AccessKey { id, secret }) = key {
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok((builder, "the program".to_owned()));
    }
    let there = |key| builder.get_config_value(&key).is_some();
    let keys = if there(Key::AccessKeyId) || there(Key::SecretAccessKey) {
        "the environment (AWS_ACCESS_KEY_ID)".to_owned()
    } else if profile.key()?.is_some() {
        let place = profile.place();
        builder = builder.with_credentials(Arc::new(profile));
        place
    } else if there(Key::SkipSignature) {
        "nowhere (AWS_SKIP_SIGNATURE)".to_owned()
    } else if there(Key::WebIdentityTokenFile)
        || there(Key::ContainerCredentialsRelativeUri)
        || there(Key::ContainerCredentialsFullUri)
        || !(address.endpoint.is_some() || there(Key::Endpoint) || there(Key::S3Endpoint))
    {
        "this machine's role".to_owned()
    } else {
        return Err(format!(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the agent runs, or write {}",
            profile.place()
        ));
    };
    Ok((builder, keys))
}

impl Backend for S3 {
    fn location(&self) -> String {
        self.address.to_string()
    }

    fn transfers(&self) -> usize {
        8
    }

    fn foreign(&self) -> std::result::Result<Option<String>, BackendError> {
        let (store, prefix) = (self.first.clone(), self.address.prefix.clone());
        let found =
            self.run(|| self.location(), async move { store.list_with_delimiter(Some(&prefix)).await })?;
        let objects = found.objects.into_iter().map(|object| object.location);
        let mut names = found
            .common_prefixes
            .into_iter()
            .chain(objects)
            .filter_map(|path| path.filename().map(str::to_owned));
        Ok(names.find(|name| !FileName::is_top_level(name)).map(|name| format!("it holds {name}")))
    }

    fn prepare(&self) -> std::result::Result<(), BackendError> {
        Ok(())
    }

    fn list(&self, kind: FileKind) -> std::result::Result<Vec<Listed>, BackendError> {
        let (store, folder) = (self.store.clone(), self.below(kind.folder()));
        let place = || format!("{}/{}", self.address, kind.folder());
        let objects: Vec<ObjectMeta> =
            self.run(place, async move { store.list(Some(&folder)).try_collect().await })?;
        let listed = objects.into_iter().filter_map(|object| {
            let id = object.location.filename()?.parse().ok()?;
            // What lies elsewhere is foreign, whatever its name.
            (object.location == self.key(&FileName::Of(kind, id))).then_some(Listed { id, size: object.size })
        });
        Ok(listed.collect())
    }

    fn read(&self, name: &FileName) -> std::result::Result<Vec<u8>, BackendError> {
        let (store, key) = (self.store(name), self.key(name));
        let read = self.run(|| self.place(name), async move { store.get(&key).await?.bytes().await })?;
        Ok(read.into())
    }

    fn read_range(
        &self,
        name: &FileName,
        offset: u64,
        buffer: &mut [u8],
    ) -> std::result::Result<(), BackendError> {
        let (store, key, end) = (self.store(name), self.key(name), offset + buffer.len() as u64);
        let read = self.run(|| self.place(name), async move {
            match store.get_range(&key, offset..end).await {
                Err(error) if error::is_beyond_the_end(&error) => Ok(Bytes::new()),
                read => read,
            }
        })?;
        if read.len() != buffer.len() {
            let short = std::io::ErrorKind::UnexpectedEof.into();
            return Err(BackendError::from_io(self.place(name), short));
        }
        buffer.copy_from_slice(&read);
        Ok(())
    }

    fn write(&self, name: &FileName, bytes: &[u8]) -> std::result::Result<(), BackendError> {
        let (store, key, bytes) = (self.store(name), self.key(name), Bytes::copy_from_slice(bytes));
        self.run(|| self.place(name), async move { put(&store, &key, bytes).await })
    }

    fn create(&self, name: &FileName, bytes: &[u8]) -> std::result::Result<bool, BackendError> {
        let (store, key, bytes) = (self.store(name), self.key(name), Bytes::copy_from_slice(bytes));
        self.run(|| self.place(name), async move { create(&store, &key, bytes).await })
    }

    fn remove(&self, name: &FileName) -> std::result::Result<(), BackendError> {
        let (store, key) = (self.store(name), self.key(name));
        self.run(|| self.place(name), async move {
            // To delete what is not there succeeds, and whether it was there is what the caller learns from.
            store.head(&key).await?;
            store.delete(&key).await
        })
    }

    fn stamp(&self, name: &FileName) -> std::result::Result<Stamp, BackendError> {
        let (store, key) = (self.store(name), self.key(name));
        let object = self.run(|| self.place(name), async move { store.head(&key).await })?;
        let (tag, version) = (object.e_tag.unwrap_or_default(), object.version.unwrap_or_default());
        Ok(Stamp(format!("{tag} {version} {} {}", object.size, object.last_modified.timestamp())))
    }

    /// Nothing unfinished is ever to be seen. Parts of an upload that was never completed are the bucket's own to clear:
    /// its life-cycle rule `AbortIncompleteMultipartUpload`.
    fn sweep(&self) -> std::result::Result<u64, BackendError> {
        Ok(0)
    }
}

/// Brings an object up whole, or in parts.
async fn put(store: &AmazonS3, key: &Path, bytes: Bytes) -> Result<()> {
    if bytes.len() <= WHOLE {
        return store.put(key, bytes.into()).await.map(drop);
    }
    let mut upload = store.put_multipart(key).await?;
    let sent = put_parts(&mut *upload, bytes).await;
    if sent.is_err() {
        // Best effort: see `sweep`.
        let _ = upload.abort().await;
    }
    sent
}

async fn put_parts(upload: &mut dyn MultipartUpload, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(PART));
        upload.put_part(part.into()).await?;
    }
    upload.complete().await.map(drop)
}

/// Whether this call brought the object up; false when there was one.
async fn create(store: &AmazonS3, key: &Path, bytes: Bytes) -> Result<bool> {
    let mut repeated = false;
    loop {
        let payload = PutPayload::from(bytes.clone());
        match store.put_opts(key, payload, PutMode::Create.into()).await {
            Ok(_) => return Ok(true),
            // It may be our own: a request that was repeated because its answer was lost.
            Err(Error::AlreadyExists { .. }) => return Ok(store.get(key).await?.bytes().await? == bytes),
            // `object_store` does not repeat it, since it cannot tell the two cases apart.
            Err(error) if !repeated && error::connection(&error).is_some() => repeated = true,
            // A store without conditions.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                return match store.head(key).await {
                    Ok(_) => Ok(false),
                    Err(Error::NotFound { .. }) => put(store, key, bytes).await.map(|()| true),
                    Err(error) => Err(error),
                };
            }
            Err(error) => return Err(error),
        }
    }
}
