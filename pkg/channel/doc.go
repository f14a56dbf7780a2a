// Package channel is the transport of the mesh: links between processes, the
// line of messages that wait for each node, and the table that says where the
// nodes are. It is the only package that knows frames and streams.
//
// A link is one gRPC stream from the process that dials to the node that
// listens. The dialling end is a sender, one per node of the table; the
// listening end is an agent, one per accepted link. Decisions of the sending
// side (who waits, what a reload means, which dial counts) are methods of node
// and outlet: plain functions on plain state, driven by sender, which holds
// the lock, the clock, the goroutines and gRPC.
package channel
