// Package mesh lets processes call each other by node name and service name,
// over gRPC.
//
// A process makes a Mesh with New, opens the nodes that it is (Open), hosts
// services (NewService, Register) and calls others (Call, Send, Query, Proxy).
// The table says where the nodes are; Reload changes it while everything runs.
// A call to a node that is not there yet waits for it, until its context ends.
//
//	m, err := mesh.New(mesh.Options{})
//	m.Reload(mesh.Table{"db": "127.0.0.1:2528"})
//	value, err := m.Call(ctx, "db@sdb", "GET", []byte("key"))
//
// # Targets
//
// A target is NODE@NAME, NODE.NAME or NODE:HANDLE: "db@sdb" is the cluster name
// @sdb of node db, "db.launcher" its local name .launcher, and
// "db:5f3a9c1200000001" the service with that handle, as Query tells it.
//
// # What is promised
//
// A call has exactly one outcome, and no message runs twice: every error says
// whether the message may have been executed (Error, VerdictOf). The messages
// of one goroutine to one target start in the order in which they were made.
// docs/semantics.md has the whole list and the tests that prove it.
package mesh
