//! Volumes of images that are in the same cluster already: clones, which copy when they are written
//! (Cinder's `clone_image` and `_is_cloneable`).
//!
//! Glance's own rbd store says where an image is as `rbd://<fsid>/<pool>/<image>/<snapshot>`. Wherever
//! cloning that is not possible, nothing is done, and the image is downloaded as from anywhere else.

use percent_encoding::percent_decode_str;
use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::units::SizeGib;

use super::cli::{Of, Origin};
use super::failure::Refusal;
use super::names::{self, Place};
use super::plan::{CloneFormat, Step};
use super::report::Image;
use super::{Cluster, Stop};

/// Where an image is in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    fsid: String,
    /// The pool, which need not be one of ours.
    pub pool: String,
    /// The image's name in it.
    pub image: String,
    /// The snapshot that holds the image's data.
    pub snapshot: String,
}

impl Location {
    /// Nothing if that is not a snapshot in a cluster.
    pub fn parse(url: &str) -> Option<Self> {
        let decoded = |part: &str| {
            let text = percent_decode_str(part).decode_utf8().ok()?;
            (!text.is_empty()).then(|| text.into_owned())
        };
        let parts: Option<Vec<String>> = url.strip_prefix("rbd://")?.split('/').map(decoded).collect();
        let [fsid, pool, image, snapshot] = <[String; 4]>::try_from(parts?).ok()?;
        Some(Self { fsid, pool, image, snapshot })
    }

    /// As commands name it.
    pub fn origin(&self) -> Origin<'_> {
        Origin { pool: &self.pool, image: &self.image, snapshot: &self.snapshot }
    }
}

/// What the cluster shows of an image and of the volume that is to be made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The volume, if an earlier attempt has come so far.
    pub volume: Option<Image>,
    /// The image's snapshot, if we may read it.
    pub source: Option<Image>,
    /// Whether the snapshot's image has as many ancestors as a clone may have.
    pub is_deep: bool,
}

/// What to do so that the volume is a clone of the image, in this order.
///
/// # Errors
/// Why that is not possible.
pub fn plan_clone(
    from: &Location,
    size: SizeGib,
    seen: &Shown,
    format: CloneFormat,
) -> Result<Vec<Step>, &'static str> {
    let (bytes, mut steps) = match (&seen.volume, &seen.source) {
        // what it holds, and how much of it, is not to be seen: a download begins anew over it
        (Some(volume), _) if !is_clone_of(volume, from) => return Err("the volume is being filled already"),
        (Some(volume), _) => (volume.size, Vec::new()),
        (None, None) => return Err("there is no such snapshot"),
        (None, Some(_)) if names::is_volume_of_ours(&from.image) => return Err("it is a volume"),
        (None, Some(source)) if format == CloneFormat::V1 && !source.is_protected() => {
            return Err("its snapshot is not protected");
        }
        (None, Some(source)) => (source.size, vec![Step::CloneImage { from: from.clone() }]),
    };
    if bytes > size.bytes() {
        return Err("it is larger than the volume");
    }
    if bytes < size.bytes() {
        steps.push(Step::Grow { bytes: size.bytes() });
    }
    if seen.is_deep {
        steps.push(Step::Flatten);
    }
    Ok(steps)
}

fn is_clone_of(volume: &Image, from: &Location) -> bool {
    volume.parent.as_ref().is_some_and(|parent| {
        (&parent.pool, &parent.image, &parent.snapshot) == (&from.pool, &from.image, &from.snapshot)
    })
}

/// Why a volume is not a clone of its image.
enum Obstacle {
    /// It cannot be. It can be filled in another way.
    No(String),
    /// Something has the volume's name, and was not seen before.
    NameTaken,
    /// The cluster did not answer: whatever else is tried meets the same.
    Failed(Failure),
}

impl Obstacle {
    fn of(command: &str, refusal: Refusal) -> Self {
        let failure = refusal.into_failure(command);
        match failure.kind {
            FailureKind::TimedOut => Self::Failed(failure),
            FailureKind::Busy
            | FailureKind::ObjectMissing
            | FailureKind::NoSpace
            | FailureKind::BackendUnavailable
            | FailureKind::Unsupported
            | FailureKind::Mismatch
            | FailureKind::BackendError
            | FailureKind::NoValidBackend
            | FailureKind::NotAttempted => Self::No(failure.to_string()),
        }
    }
}

impl Cluster {
    /// Whether the volume is a clone of an image at one of these locations now.
    pub(super) async fn clone_image(
        &self,
        pool: &str,
        volume: BackendObject,
        size: SizeGib,
        locations: &[String],
    ) -> Result<bool, Failure> {
        for from in locations.iter().filter_map(|location| Location::parse(location)) {
            let mut told = self.clone_from_location(pool, volume, size, &from).await;
            if matches!(told, Err(Obstacle::NameTaken)) {
                self.settle_name(pool, &Place::of(volume).image).await?;
                told = self.clone_from_location(pool, volume, size, &from).await;
            }
            match told {
                Ok(()) => return Ok(true),
                Err(Obstacle::No(reason)) => {
                    tracing::info!(%volume, image = from.image, reason, "the image is copied, not cloned");
                }
                Err(Obstacle::NameTaken) => {
                    let message = format!("something else is making {volume} all the time");
                    return Err(Failure::new(FailureKind::Busy, message));
                }
                Err(Obstacle::Failed(failure)) => return Err(failure),
            }
        }
        Ok(false)
    }

    async fn clone_from_location(
        &self,
        pool: &str,
        volume: BackendObject,
        size: SizeGib,
        from: &Location,
    ) -> Result<(), Obstacle> {
        let asked = self.fsid.get_or_try_init(|| self.cli.fsid()).await;
        let ours = asked.map_err(|refusal| Obstacle::of("fsid", refusal))?;
        if *ours != from.fsid {
            return Err(Obstacle::No("it is in another cluster".to_owned()));
        }
        let target = self.seen(pool, &Place::of(volume)).await.map_err(Obstacle::Failed)?;
        let source = self.cli.info(&from.pool, Of::Name(&from.image), Some(&from.snapshot)).await;
        let source = source.map_err(|refusal| Obstacle::of("info", refusal))?;
        let is_deep = match &source {
            Some(source) => self.has_ancestors(source).await?,
            None => false,
        };
        let format = self.clone_format.get_or_try_init(|| self.cli.clone_format()).await;
        let format = *format.map_err(|refusal| Obstacle::of("osd get-require-min-compat-client", refusal))?;
        let seen = Shown { volume: target, source, is_deep };
        let steps =
            plan_clone(from, size, &seen, format).map_err(|reason| Obstacle::No(reason.to_owned()))?;
        for step in steps {
            if let Step::CloneImage { from } = &step {
                let told = self.clone_from(from.origin(), pool, &Place::of(volume).image).await;
                told.map_err(|refusal| match Stop::of("clone", refusal) {
                    Stop::NameTaken => Obstacle::NameTaken,
                    Stop::Failed(failure) => Obstacle::of("clone", Refusal::Failed(failure)),
                })?;
            } else {
                self.act(pool, volume, step).await.map_err(|stop| match stop {
                    Stop::NameTaken => Obstacle::NameTaken,
                    Stop::Failed(failure) => Obstacle::Failed(failure),
                })?;
            }
        }
        Ok(())
    }

    /// As [`Cluster::is_deep`], where ancestors may be in pools that we may not look into.
    async fn has_ancestors(&self, source: &Image) -> Result<bool, Obstacle> {
        self.is_deep(source).await.map_err(|failure| Obstacle::of("info", Refusal::Failed(failure)))
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
