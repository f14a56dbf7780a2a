package script_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// options are what stands between call or send and the target:
// -nowait -waitup -within D -tag TAG -parent TRACEPARENT.
type options struct {
	call   []grpc.CallOption
	within time.Duration
	trace  mesh.Trace
}

func takeOptions(a *args) (o options) {
	for len(*a) > 0 && strings.HasPrefix((*a)[0], "-") {
		switch option := a.next(); option {
		case "-nowait":
			o.call = append(o.call, mesh.NoWait)
		case "-waitup":
			o.call = append(o.call, mesh.WaitUp)
		case "-within":
			o.within = a.duration()
		case "-tag":
			o.trace.Tag = a.next()
		case "-parent":
			o.trace.Parent = a.next()
		default:
			panic("no such option: " + option)
		}
	}
	return o
}

// run runs a command that has options, and may run beside the script.
func (p *process) run(a args, f func(context.Context, options, args) (string, error)) {
	name, o := a.name(), takeOptions(&a)
	p.w.run(name, func(ctx context.Context) {
		cancel := func() {}
		if o.within > 0 {
			ctx, cancel = context.WithTimeout(ctx, o.within)
		}
		defer cancel()
		text, err := f(mesh.WithTrace(ctx, o.trace), o, a)
		p.tell(name, text, err)
	})
}

// send is "call" and "send" [OPTION...] TARGET METHOD [WORD...] [& NAME]. A target
// without a sign is a proxy. The * in A*N repeats the letter before it.
func (p *process) send(a args, push bool) {
	p.run(a, func(ctx context.Context, o options, a args) (string, error) {
		target, method := strings.Trim(a.next(), `"`), a.next()
		payload := []byte(long(a))
		to := p.proxies[target]
		if to == nil {
			to = p.m.Proxy(target)
		}
		if push {
			return "sent", to.Send(ctx, method, payload, o.call...)
		}
		reply, err := to.Call(ctx, method, payload, o.call...)
		return "reply " + short(string(reply)), err
	})
}

func long(words args) string {
	for i, word := range words {
		if c, n, ok := strings.Cut(word, "*"); ok && c != "" {
			count, _ := strconv.Atoi(n)
			words[i] = c[:len(c)-1] + strings.Repeat(c[len(c)-1:], count)
		}
	}
	return strings.Join(words, " ")
}

// short tells a text, and of a long one its beginning and its length.
func short(text string) string {
	if len(text) > 120 {
		return fmt.Sprintf("%q... (%d bytes)", text[:12], len(text))
	}
	return strconv.Quote(text)
}

var executed = map[mesh.Verdict]string{mesh.NotSent: "no", mesh.Rejected: "no", mesh.MaybeExecuted: "maybe", mesh.HandlerFailed: "yes"}

// failure tells an error of the mesh with its facts: verdict, code, and the
// reason that other languages find in its status. The status must say the same.
func (p *process) failure(err error) string {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return "error: " + err.Error()
	}
	facts := e.Verdict.String() + ", " + e.Code.String()
	s := status.Convert(err)
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			facts += ", " + i.GetReason()
			md := map[string]string{"executed": executed[e.Verdict], "node": e.Node, "target": e.Target, "method": e.Method}
			if !maps.Equal(md, i.GetMetadata()) || i.GetDomain() != "mesh" {
				p.w.Errorf("%v: details %v", err, i)
			}
		}
	}
	if s.Code() != e.Code || s.Message() != e.Message {
		p.w.Errorf("%v: status %v", err, s)
	}
	return fmt.Sprintf("error (%s): %s", facts, e.Message)
}

// handler makes the handler of a service. GET and SET use its state without a
// lock: they are for serial services.
func (p *process) handler(who string, loud bool) mesh.Handler {
	db := map[string]string{}
	return func(ctx context.Context, method string, payload []byte) (reply []byte, err error) {
		defer func() {
			if due, has := ctx.Deadline(); has && time.Since(due).Abs() < time.Millisecond {
				time.Sleep(time.Millisecond) // so that the caller's deadline is the first
			}
		}()
		if loud {
			called := strings.TrimSpace(method + " " + strings.ReplaceAll(short(string(payload)), `"`, ""))
			p.tell(who, called+" starts", nil)
			defer func() {
				if ctx.Err() != nil { // by its deadline, or by its caller's, which is the same instant
					called += ", whose context has ended,"
				}
				p.tell(who, called+" ends", nil)
			}()
		}
		a := args(strings.Split(string(payload), " "))
		switch method {
		case "ECHO":
			return payload, nil
		case "GET":
			return []byte(db[a[0]]), nil
		case "SET": // KEY VALUE: replies with the last one
			last := db[a[0]]
			db[a[0]] = a[1]
			return []byte(last), nil
		case "PING":
			text := string(payload)
			if len(text) > 20 {
				text = fmt.Sprintf("%s...(%d)", text[:20], len(text))
			}
			p.tell(who, "ping "+text, nil)
			return nil, nil
		case "FAIL": // [CODE] TEXT
			var code codes.Code
			if code.UnmarshalJSON([]byte(strconv.Quote(a[0]))) != nil {
				return nil, errors.New(string(payload))
			}
			return nil, status.Error(code, strings.Join(a[1:], " "))
		case "PANIC":
			panic(string(payload))
		case "GOEXIT":
			runtime.Goexit()
		case "WHO":
			c, _ := mesh.CallerFrom(ctx)
			return fmt.Appendf(nil, "%s, as %s, for %s %s, push %v", c.Process, c.Node, c.Target, c.Method, c.Push), nil
		case "TRACE":
			c, _ := mesh.CallerFrom(ctx)
			text := fmt.Sprintf("tag=%s parent=%s", c.Trace.Tag, c.Trace.Parent)
			if c.Push {
				p.tell(who, text, nil)
			}
			return []byte(text), nil
		case "LATER": // D TARGET METHOD WORD...
			time.Sleep(a.duration())
			fallthrough
		case "CALL": // TARGET METHOD WORD...
			return p.m.Call(ctx, a[0], a[1], []byte(strings.Join(a[2:], " ")))
		case "CLOSE":
			return nil, p.m.Close(ctx)
		}
		return p.wait(ctx, method, a[0])
	}
}

// wait is for the methods that take time. They end with their context, but for STUCK.
func (p *process) wait(ctx context.Context, method, what string) (_ []byte, err error) {
	until := func(done <-chan struct{}, d string) {
		after, _ := time.ParseDuration(d)
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	switch method {
	case "SLEEP": // D
		until(nil, what)
	case "AWAIT": // D, while the next message may run
		mesh.Await(ctx, func() { until(nil, what) })
	case "HOLD": // NAME, until "release NAME"
		until(p.w.hold(what), "24h")
	case "STUCK": // NAME
		<-p.w.hold(what)
	default:
		return nil, fmt.Errorf("unknown command %s", method)
	}
	return []byte(what + " over"), err
}
