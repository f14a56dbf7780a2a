package mesh_test

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// A program that cannot listen registers a name over Serve, is sent calls and
// pushes, and its answers reach the callers; Query gives its handle.
func TestProgramServesAName(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(nil)
		h := p.registers("model", false) // as Register: "@" is added
		var header, trailer metadata.MD
		done := w.calling(caller, "db@model", "ASK", []byte("question"), mesh.Headers(metadata.Pairs("k", "v")), grpc.Header(&header), grpc.Trailer(&trailer))
		session, q := p.asked("ASK")
		if q.GetName() != "@model" || string(q.GetPayload()) != "question" || q.GetHops() != 1 || q.GetTimeLeftUs() == 0 || q.GetPush() || len(q.GetHeaders()) != 1 || session != 1 {
			t.Errorf("session %d: %v", session, q)
		}
		p.say(rogueReply(session, []byte("answer"), func(r *meshv1.Reply) {
			r.Headers = []*meshv1.Header{{Key: "h", Value: []byte("1")}}
			r.Trailers = []*meshv1.Header{{Key: "t", Value: []byte("2")}}
		}))
		if r := <-done; r.err != nil || string(r.reply) != "answer" || header.Get("h")[0] != "1" || trailer.Get("t")[0] != "2" {
			t.Errorf("%q, %v, headers %v, trailers %v", r.reply, r.err, header, trailer)
		}
		if got, err := caller.Query(w.within(time.Minute), "db@model"); err != nil || got != h {
			t.Errorf("query: %v, %v, want %v", got, err, h)
		}
		// By handle it comes under its name too.
		done = w.calling(caller, "db"+h.String(), "AGAIN", nil)
		session, q = p.asked("AGAIN")
		p.say(rogueReply(session, q.GetPayload()))
		if r := <-done; r.err != nil || q.GetName() != "@model" {
			t.Errorf("by handle: %v, %v", r.err, q)
		}
		if err := caller.Send(w.within(time.Minute), "db@model", "TELL", []byte("news")); err != nil {
			t.Error(err)
		}
		if _, q := p.asked("TELL"); !q.GetPush() || string(q.GetPayload()) != "news" {
			t.Errorf("push: %v", q)
		}
		if n := node.Stats().Programs; n != 1 {
			t.Errorf("%d programs", n)
		}
	})
}

// Large requests come down in parts, large replies go up in parts.
func TestProgramIsSentLargeMessages(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p := w.program(nil, "@model")
		want := bytes.Repeat([]byte("0123456789abcdef"), 8192+100)
		done := w.calling(caller, "db@model", "ASK", want)
		session, q := p.asked("ASK")
		got := q.GetPayload()
		for uint64(len(got)) < q.GetTotalSize() {
			f := p.hear()
			if f.GetPart() == nil || f.GetSession() != session {
				t.Fatalf("got %v", f)
			}
			got = append(got, f.GetPart().GetPayload()...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes came, want %d", len(got), len(want))
		}
		p.say(&meshv1.Frame{Session: session, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: want[:partSize], TotalSize: uint64(len(want))}}})
		for at := partSize; at < len(want); at += partSize {
			p.say(&meshv1.Frame{Session: session, Body: &meshv1.Frame_Part{Part: &meshv1.Part{Payload: want[at:min(at+partSize, len(want))]}}})
		}
		if r := <-done; r.err != nil || !bytes.Equal(r.reply, want) {
			t.Errorf("%d bytes, %v", len(r.reply), r.err)
		}
	})
}
