package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// watch keeps the server connected and says whether it is up, until ctx ends.
func (h *Hosted) watch(ctx context.Context, last *dialError) {
	for ctx.Err() == nil {
		switch state := h.cc.GetState(); state {
		case connectivity.Ready:
			if err := h.health(ctx); ctx.Err() == nil {
				h.set(false, err.Error())
				pause(ctx, 100*time.Millisecond) // a server that answers and breaks off in a loop
			}
		case connectivity.Idle:
			h.cc.Connect()
			h.cc.WaitForStateChange(ctx, state)
		default:
			if err := last.get(); err != nil && state == connectivity.TransientFailure {
				h.set(false, err.Error())
			}
			h.cc.WaitForStateChange(ctx, state)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

var errGone = errors.New("its connection ended")

// health follows what a connected server says of itself, and returns why that
// ended. One that has no health service, or does not let us see it, is up while
// it is connected.
func (h *Hosted) health(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := healthpb.NewHealthClient(h.cc).Watch(ctx, &healthpb.HealthCheckRequest{})
	for err == nil {
		var r *healthpb.HealthCheckResponse
		if r, err = w.Recv(); err == nil {
			up := r.GetStatus() == healthpb.HealthCheckResponse_SERVING
			cause := ""
			if !up {
				cause = fmt.Sprintf("its health says %s", r.GetStatus())
			}
			h.set(up, cause)
		}
	}
	switch status.Code(err) {
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		h.set(true, "")
		for h.cc.GetState() == connectivity.Ready {
			if !h.cc.WaitForStateChange(ctx, connectivity.Ready) {
				return ctx.Err()
			}
		}
		return errGone
	default:
		return fmt.Errorf("%w: %s", errGone, status.Convert(err).Message())
	}
}
