// Package gateway is plain gRPC on both sides of the mesh.
//
// In: at an address of its own a Gateway takes any method of any gRPC service,
// from the generated stub of any language, and carries it to the service that
// the call's metadata names. The bytes of its messages pass untouched.
//
//	mesh-to: db@sdb     the target; Options.Routes can make it unnecessary
//	mesh-nowait: 1      fail at once where the node is absent (mesh.NoWait)
//	mesh-waitup: 1      wait for a node that cannot be reached (mesh.WaitUp)
//	mesh-post: 1        one-way: an empty reply, once the message is on its way
//	mesh-trace: TAG     a skynet trace tag
//
// Other metadata, deadlines and cancellation go to the handler; its headers,
// trailers, status and details come back. What the mesh itself has to say is a
// status with a google.rpc.ErrorInfo of domain "mesh".
//
// Out: Host makes an ordinary gRPC server, which knows nothing of the mesh, a
// service of it.
package gateway
