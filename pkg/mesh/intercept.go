package mesh

import (
	"context"
	"runtime/debug"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// chain makes one interceptor of several, the first outermost; nil of none.
func chain(is []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	switch len(is) {
	case 0:
		return nil
	case 1:
		return is[0]
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		return is[0](ctx, req, info, func(ctx context.Context, req any) (any, error) {
			return chain(is[1:])(ctx, req, info, h)
		})
	}
}

// chainStreams is chain for the handlers of streams.
func chainStreams(is []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	switch len(is) {
	case 0:
		return nil
	case 1:
		return is[0]
	}
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return is[0](srv, ss, info, func(srv any, ss grpc.ServerStream) error {
			return chainStreams(is[1:])(srv, ss, info, h)
		})
	}
}

// streamInterceptors go around the streams of a listener: they act once per
// link, not per message. Health checks and unary calls are not logged.
func streamInterceptors(log *zap.Logger) []grpc.ServerOption {
	rec := recovery.WithRecoveryHandlerContext(func(_ context.Context, p any) error {
		log.Error("panic in a gRPC handler", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		return status.Error(codes.Internal, "internal error")
	})
	logged := selector.MatchFunc(func(_ context.Context, c interceptors.CallMeta) bool {
		return c.Service != "grpc.health.v1.Health" && c.FullMethod() != meshv1.ClusterService_Call_FullMethodName
	})
	events := logging.WithLogOnEvents(logging.FinishCall)
	return []grpc.ServerOption{
		grpc.ChainStreamInterceptor(
			selector.StreamServerInterceptor(logging.StreamServerInterceptor(zapLogger(log), events), logged),
			recovery.StreamServerInterceptor(rec)),
		grpc.ChainUnaryInterceptor(
			selector.UnaryServerInterceptor(logging.UnaryServerInterceptor(zapLogger(log), events), logged),
			recovery.UnaryServerInterceptor(rec)),
	}
}

// zapLogger shows the middleware's events on a zap logger.
func zapLogger(l *zap.Logger) logging.Logger {
	return logging.LoggerFunc(func(_ context.Context, level logging.Level, msg string, fields ...any) {
		zs := make([]zap.Field, 0, len(fields)/2)
		for it := logging.Fields(fields).Iterator(); it.Next(); {
			k, v := it.At()
			zs = append(zs, zap.Any(k, v))
		}
		switch {
		case level >= logging.LevelWarn:
			l.Warn(msg, zs...)
		default:
			l.Info(msg, zs...)
		}
	})
}
