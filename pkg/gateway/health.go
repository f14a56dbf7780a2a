package gateway

import (
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// own is the gateway's own answer to a call that names no target: its health.
// For a target, or where there is a route, it is the target's.
func (g *Gateway) own(method string, md metadata.MD) func(grpc.ServerStream) error {
	service := serviceOf(method)
	if service != healthpb.Health_ServiceDesc.ServiceName || len(md.Get(keyTo)) > 0 || g.routes[service] != "" {
		return nil
	}
	for _, d := range healthpb.Health_ServiceDesc.Methods {
		if method != "/"+service+"/"+d.MethodName {
			continue
		}
		return func(in grpc.ServerStream) error {
			reply, err := d.Handler(g.health, in.Context(), in.RecvMsg, nil)
			if err != nil {
				return err
			}
			return in.SendMsg(reply)
		}
	}
	for _, d := range healthpb.Health_ServiceDesc.Streams {
		if method == "/"+service+"/"+d.StreamName {
			return func(in grpc.ServerStream) error { return d.Handler(g.health, in) }
		}
	}
	return nil
}
