// Package simpledb is the database of skynet's cluster example: strings by key,
// in memory, without a bound. It answers the stubs of simpledb.v1, and plain
// messages with the methods GET, SET and PING, as a command line sends them.
package simpledb

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// NilHeader is "true" beside the empty reply to a plain SET of a key that had no
// value, and missing where the value was empty.
const NilHeader = "simpledb-nil"

// DB keeps the values. It has no lock: its service is serial, so that the
// messages run one at a time. Before it is registered, and only then, whoever
// made it may call its methods too. The zero value is not usable.
type DB struct {
	simpledbv1.UnimplementedSimpleDBServiceServer
	values map[string]string
	pinged func(ctx context.Context, text string)
}

// New makes an empty DB. pinged is told of each ping, with the handler's context
// and the text, cut; nil: nobody is.
func New(pinged func(ctx context.Context, text string)) *DB {
	if pinged == nil {
		pinged = func(context.Context, string) {}
	}
	return &DB{values: make(map[string]string), pinged: pinged}
}

// Service makes the service of db in m, without a name yet.
func (db *DB) Service(m *mesh.Mesh) *mesh.Service {
	s := m.NewService(db.handle, mesh.Serial())
	simpledbv1.RegisterSimpleDBServiceServer(s, db)
	return s
}

// Get reads a key. The value is unset where the key has none.
func (db *DB) Get(_ context.Context, r *simpledbv1.GetRequest) (*simpledbv1.GetResponse, error) {
	return &simpledbv1.GetResponse{Value: db.get(r.GetKey())}, nil
}

// Set writes a key and returns what it held before.
func (db *DB) Set(_ context.Context, r *simpledbv1.SetRequest) (*simpledbv1.SetResponse, error) {
	return &simpledbv1.SetResponse{Last: db.set(r.GetKey(), r.GetValue())}, nil
}

// Ping tells of its text, and has no reply: call it with mesh.Post.
func (db *DB) Ping(ctx context.Context, r *simpledbv1.PingRequest) (*simpledbv1.PingResponse, error) {
	return &simpledbv1.PingResponse{}, db.ping(ctx, r.GetText())
}

// handle answers plain messages:
//
//	GET key         the value; NOT_FOUND where the key has none
//	SET key=value   what it held before; the key ends at the first '='
//	PING text       one-way
func (db *DB) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	switch strings.ToUpper(method) {
	case "GET":
		value := db.get(string(payload))
		if value == nil {
			return nil, status.Errorf(codes.NotFound, "the key %.80q has no value", payload)
		}
		return []byte(*value), nil
	case "SET":
		key, value, ok := bytes.Cut(payload, []byte("="))
		if !ok {
			return nil, status.Error(codes.InvalidArgument, "the payload of SET has no '=': send key=value")
		}
		last := db.set(string(key), string(value))
		if last == nil {
			return nil, grpc.SetHeader(ctx, metadata.Pairs(NilHeader, "true"))
		}
		return []byte(*last), nil
	case "PING":
		return nil, db.ping(ctx, string(payload))
	default:
		return nil, status.Errorf(codes.Unimplemented, "unknown command %.80q: there are GET, SET and PING", method)
	}
}

func (db *DB) get(key string) *string {
	if value, ok := db.values[key]; ok {
		return &value
	}
	return nil
}

func (db *DB) set(key, value string) (last *string) {
	last = db.get(key)
	db.values[key] = value
	return last
}

func (db *DB) ping(ctx context.Context, text string) error {
	if caller, ok := mesh.CallerFrom(ctx); ok && !caller.Push {
		return status.Error(codes.InvalidArgument, "ping is one-way: send it, with mesh.Post or Send")
	}
	db.pinged(ctx, short(text))
	return nil
}

// short cuts a long text to 20 bytes and its length, as skynet's simpledb does.
func short(text string) string {
	const most = 20
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s...(%d)", strings.ToValidUTF8(text[:most], "?"), len(text))
}
