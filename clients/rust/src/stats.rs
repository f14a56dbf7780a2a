/// What a link has counted since it was made. Nothing is dropped silently: what
/// cannot be told to a caller is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Dials that were begun.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Links that broke, or ended with something in flight.
    pub links_lost: u64,
    /// Messages that were sent again after a goaway or a refusal as draining.
    pub resent: u64,
    /// Accepted pushes that were lost because the node could not be reached.
    pub pushes_lost_connect: u64,
    /// Accepted pushes that a goaway did not take.
    pub pushes_lost_goaway: u64,
    /// Large pushes that were under way when the link broke.
    pub pushes_lost_broken: u64,
    /// Accepted pushes that were larger than the node takes.
    pub pushes_lost_too_large: u64,
    /// Accepted pushes that were not sent when the link was closed.
    pub pushes_lost_closed: u64,
    /// Pushes that were sent on a link that broke before it was known that the
    /// node had read them.
    pub pushes_unsure: u64,
    /// Answers to calls that nobody waited for any more.
    pub replies_late: u64,
    /// Frames of no known session, or of a kind that this crate does not know.
    pub frames_stray: u64,
}
