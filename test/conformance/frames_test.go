package conformance_test

import (
	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func heartbeat(stopped bool) *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Heartbeat{Heartbeat: &meshv1.Heartbeat{ReadingStopped: stopped}}}
}

func reply(session uint64, payload string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: []byte(payload)}}}
}

// largeReply is the first frame of one: n bytes of total.
func largeReply(session, total uint64, n int) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{TotalSize: total, Payload: make([]byte, n)}}}
}

// replyFrames are the frames of a reply of any size.
func replyFrames(session uint64, payload []byte) []*meshv1.Frame {
	if len(payload) <= partBytes {
		return []*meshv1.Frame{reply(session, string(payload))}
	}
	first := reply(session, string(payload[:partBytes]))
	first.GetReply().TotalSize = uint64(len(payload))
	return append([]*meshv1.Frame{first}, parts(session, payload[partBytes:])...)
}

// parts are the further frames of a message.
func parts(session uint64, rest []byte) (frames []*meshv1.Frame) {
	for len(rest) > 0 {
		n := min(len(rest), partBytes)
		frames = append(frames, part(session, rest[:n]))
		rest = rest[n:]
	}
	return frames
}

func part(session uint64, payload []byte) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Part{Part: &meshv1.Part{Payload: payload}}}
}

func failure(session uint64, reason meshv1.Reason, code codes.Code, message string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Failure{Failure: &meshv1.Failure{Reason: reason, Code: uint32(code), Message: message}}}
}

func cancel(session uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Cancel{Cancel: &meshv1.Cancel{}}}
}

func goaway(last uint64) *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: last, Message: "the puppet leaves"}}}
}

func request(session uint64, name, method string, payload []byte, set ...func(*meshv1.Request)) *meshv1.Frame {
	q := &meshv1.Request{Address: &meshv1.Request_Name{Name: name}, Method: method, Payload: payload}
	for _, f := range set {
		f(q)
	}
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Request{Request: q}}
}

// requestFrames are the frames of a request of any size.
func requestFrames(session uint64, name, method string, payload []byte, set ...func(*meshv1.Request)) []*meshv1.Frame {
	if len(payload) <= partBytes {
		return []*meshv1.Frame{request(session, name, method, payload, set...)}
	}
	set = append([]func(*meshv1.Request){func(q *meshv1.Request) { q.TotalSize = uint64(len(payload)) }}, set...)
	return append([]*meshv1.Frame{request(session, name, method, payload[:partBytes], set...)}, parts(session, payload[partBytes:])...)
}

func push(q *meshv1.Request) { q.Push = true }
