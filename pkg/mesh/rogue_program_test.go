package mesh_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// withRoguePrograms is withVictim for a process that takes programs.
func withRoguePrograms(t *testing.T, f func(v *victim), set ...func(*mesh.Options)) {
	t.Helper()
	withVictim(t, f, append(set, func(o *mesh.Options) { o.AllowServe = true })...)
}

// program is the world's, to the process.
func (v *victim) program(set func(*meshv1.Hello), names ...string) *program {
	v.Helper()
	p := v.world.program(set, names...)
	v.rogues = append(v.rogues, p.cc)
	return p
}

// serves is how a program shows that its stream lives: it answers a call.
func (p *program) serves(v *victim, name string) {
	p.Helper()
	done := v.calling(v.honest, "db"+name, "ALIVE", nil)
	f := p.hear()
	if f.GetRequest().GetMethod() != "ALIVE" {
		p.Fatalf("got %v, want a request", f)
	}
	p.say(rogueReply(f.GetSession(), []byte("alive")))
	p.gets(done, "alive")
}

// F39: what comes before the hello, a wrong hello, no hello at all, and a second
// one, end the stream with the status that a link would end with.
func TestProgramsHelloComesFirstAndOnce(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		for name, c := range map[string]struct {
			say  []*meshv1.Frame
			code codes.Code
			says string
		}{
			"register first":  {[]*meshv1.Frame{registerFrame(1, "@model", false), rogueHello()}, codes.InvalidArgument, "protocol error: the first frame is not a hello"},
			"heartbeat first": {[]*meshv1.Frame{rogueBeat()}, codes.InvalidArgument, "protocol error: the first frame is not a hello"},
			"nothing":         {nil, codes.FailedPrecondition, "no hello within 5s: the first frame must be one"},
			"version 2":       {[]*meshv1.Frame{rogueHello(func(h *meshv1.Hello) { h.Version = 2 })}, codes.FailedPrecondition, "protocol version 2 is not spoken here; use 1"},
			"incarnation 0":   {[]*meshv1.Frame{rogueHello(func(h *meshv1.Hello) { h.Incarnation = 0 })}, codes.InvalidArgument, "protocol error: hello.incarnation is 0; choose a random one at start"},
			"two hellos":      {[]*meshv1.Frame{rogueHello(), rogueHello()}, codes.InvalidArgument, "protocol error: a second hello"},
			"hello, later":    {[]*meshv1.Frame{rogueHello(), registerFrame(1, "@model", false), rogueHello()}, codes.InvalidArgument, "protocol error: a second hello"},
		} {
			p := v.programOn(v.conn())
			if c.say != nil {
				p.say(c.say...)
			}
			p.listen()
			if st := p.ended(); st.Code() != c.code || st.Message() != c.says {
				t.Errorf("%s: %v, want %s %q", name, st, c.code, c.says)
			}
			v.undisturbed()
		}
		if n := v.server.Stats().Programs; n != 0 {
			t.Errorf("%d programs", n)
		}
	})
}

// M42: names that break the rules are refused, each register for itself.
func TestProgramRegistersBadNames(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		p := v.program(nil)
		for _, name := range append([]string{"", "@a\u202eb"}, ruleBreakers...) {
			p.session++
			if strings.ToValidUTF8(name, "") != name {
				continue // no protobuf library writes it
			}
			p.say(registerFrame(p.session, name, true))
			f := p.refused(p.session, meshv1.Reason_REASON_INVALID_NAME, codes.InvalidArgument)
			nameRefused(t, name, f)
			p.say(unregisterFrame(p.session, name))
			p.refused(p.session, meshv1.Reason_REASON_INVALID_NAME, codes.InvalidArgument)
		}
		p.registers("@right", false)
		p.serves(v, "@right")
	})
}

// A program may not take a name of the process itself, of another program, or
// its own again; and unregisters only its own.
func TestProgramTakesWhatIsNotItsOwn(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		honest, p := v.program(nil, "@model"), v.program(nil)
		for i, name := range []string{"@sdb", "sdb", "@model"} {
			p.say(registerFrame(uint64(100+i), name, true))
			p.refused(uint64(100+i), meshv1.Reason_REASON_NAME_TAKEN, codes.AlreadyExists)
			p.session = uint64(200 + i)
			p.say(unregisterFrame(p.session, name))
			if p.registered() != 0 {
				t.Errorf("%s was unregistered", name)
			}
		}
		honest.serves(v, "@model")
		v.undisturbed()
	})
}

// M33: answers for sessions that are not known, or answered, and what only a
// listener says, are counted; requests are told that they do not belong here.
func TestStrayFramesOfAProgram(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		p := v.program(nil, "@model")
		p.serves(v, "@model") // session 1 is answered
		strays := []*meshv1.Frame{
			rogueReply(1, []byte("twice")), rogueReply(0, nil), rogueReply(1<<64-1, nil), rogueReply(2, []byte("of the future")),
			rogueFailure(1, meshv1.Reason_REASON_HANDLER, "twice"), roguePart(1, 10), roguePart(7, partSize), rogueCancel(1), {},
			{Session: 1, Body: &meshv1.Frame_Registered{Registered: &meshv1.Registered{Handle: 1}}}, rogueRaw(5, 1000, []byte("later")),
		}
		for _, f := range strays {
			before := v.server.Stats().FramesStray
			p.say(f)
			synctest.Wait()
			if n := v.server.Stats().FramesStray - before; n != 1 {
				t.Errorf("%v: counted %d times, want once", f, n)
			}
		}
		p.say(rogueCall(9, "@sdb", "ECHO", nil))
		f := p.refused(9, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument)
		if !strings.Contains(f.GetMessage(), "Link or Call") {
			t.Errorf("%q does not say what to do", f.GetMessage())
		}
		p.serves(v, "@model")
		if v.ran("ECHO") != 0 {
			t.Error("the request ran")
		}
	})
}

// M41: parts out of line, a second beginning, parts after the end, fail the
// session to which they belong and no other.
func TestProgramWithPartsOutOfLine(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		p := v.program(nil, "@model")
		for name, answer := range map[string]func(s uint64) []*meshv1.Frame{
			"part before the reply": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{roguePart(s, 10), rogueReply(s, []byte("fine"))}
			},
			"short part": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{rogueLargeReply(s, 100000, partSize), roguePart(s, 5)}
			},
			"long part": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{rogueLargeReply(s, 100000, partSize), roguePart(s, partSize+1)}
			},
			"more than announced": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{rogueLargeReply(s, partSize+5, partSize), roguePart(s, 6)}
			},
			"two beginnings": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{rogueLargeReply(s, 100000, partSize), rogueReply(s, nil)}
			},
			"short first piece": func(s uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLargeReply(s, 100000, 10)} },
			"4 GiB":             func(s uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLargeReply(s, 4<<30, partSize)} },
			"failure in the middle": func(s uint64) []*meshv1.Frame {
				return []*meshv1.Frame{rogueLargeReply(s, 100000, partSize), rogueFailure(s, meshv1.Reason_REASON_HANDLER, "no")}
			},
			"failure without a body": func(s uint64) []*meshv1.Frame { return []*meshv1.Frame{{Session: s, Body: &meshv1.Frame_Failure{}}} },
		} {
			done := v.calling(v.honest, "db@model", name, nil)
			s, _ := p.asked(name)
			p.say(answer(s)...)
			r := <-done
			if fine := name == "part before the reply"; fine != (r.err == nil) {
				t.Errorf("%s: %q, %v", name, r.reply, r.err)
			} else if verdict := mesh.VerdictOf(r.err); !fine && verdict != mesh.MaybeExecuted && verdict != mesh.HandlerFailed {
				t.Errorf("%s: %v (%s)", name, r.err, verdict)
			}
			synctest.Wait()
			for len(p.frames) > 0 {
				if f := p.hear(); f.GetCancel() == nil {
					t.Errorf("%s: got %v, want nothing but a cancel", name, f)
				}
			}
			p.serves(v, "@model")
		}
		if n := v.server.Stats().Running; n != 1 { // the honest client's
			t.Errorf("%d running", n)
		}
	})
}

// M56: a flood of names is refused beyond the bound, and the rest go with the
// stream. A flood of registers whose answers nobody reads stops the reading of
// that stream alone, which ends as a slow consumer.
func TestFloodOfRegisters(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		p := v.program(nil)
		for i := range 20 {
			p.say(registerFrame(uint64(i+1), fmt.Sprintf("@name-%d", i), false))
			if i < 8 {
				p.session = uint64(i + 1)
				p.registered()
				continue
			}
			f := p.refused(uint64(i+1), meshv1.Reason_REASON_OVERLOADED, codes.ResourceExhausted)
			if f.GetMessage() != "overloaded: names of this program, at most 8" {
				t.Error(f.GetMessage())
			}
		}
		p.cancel()
		synctest.Wait()
		v.program(nil, "@name-0", "@name-7")

		deaf := v.programOn(v.conn())
		deaf.say(rogueHello())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			long := strings.Repeat("n", 200)
			for i := uint64(1); deaf.trySay(registerFrame(i, long, false), unregisterFrame(i, long), rogueBeat()) == nil; i++ {
			}
		}()
		time.Sleep(20 * time.Second)
		v.undisturbed()
		time.Sleep(time.Minute)
		select {
		case <-ended:
		default:
			t.Error("a program that reads nothing floods on")
		}
		if st := deaf.rogue.ended(); st.Code() != codes.Unavailable {
			t.Errorf("ended with %v", st)
		}
	}, func(o *mesh.Options) { o.Limits.ProgramNames = 8 })
}

// M37: a program that falls silent is found, one that reads nothing is a slow
// consumer; their calls are maybe executed, and their names go.
func TestSilentAndDeafPrograms(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		silent := v.programOn(v.conn())
		silent.say(rogueHello(), registerFrame(1, "@silent", false))
		silent.listen()
		silent.hear()
		silent.session = 1
		silent.registered()
		began := time.Now()
		done := v.calling(v.honest, "db@silent", "M", nil)
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, (<-done).err)
		if took := time.Since(began); took < 6*time.Second || took > 7*time.Second {
			t.Errorf("a silent program was found after %s", took)
		}
		if st := silent.ended(); st.Code() != codes.Unavailable {
			t.Errorf("the stream ended with %v", st)
		}

		deaf := v.programOn(v.conn())
		deaf.say(rogueHello(), registerFrame(1, "@deaf", false))
		deaf.beating()
		synctest.Wait()
		began = time.Now()
		var all []<-chan result
		for range 40 {
			all = append(all, v.calling(v.honest, "db@deaf", "M", make([]byte, 1<<20)))
		}
		for _, d := range all {
			if err := (<-d).err; err == nil {
				t.Error("a deaf program answered")
			}
		}
		if took := time.Since(began); took < 30*time.Second || took > 40*time.Second {
			t.Errorf("a deaf program was found after %s", took)
		}
		_, err := v.honest.Call(v.within(time.Minute), "db@deaf", "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound}.check(t, err)
	})
}

// F37: bytes that are no protobuf end the stream alone.
func TestGarbageOfAProgram(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		other := v.program(nil, "@other")
		for name, body := range map[string][]byte{"register": {0x0a, 0x7f}, "goaway": {0xff}} {
			p := v.program(nil, "@model")
			p.say(rogueRaw(1, map[string]protowire.Number{"register": 10, "goaway": 8}[name], body))
			if st := p.ended(); st.Code() != codes.Internal {
				t.Errorf("%s: the stream ended with %v", name, st)
			}
			synctest.Wait() // its name is free
		}
		other.serves(v, "@other")
	})
}

// A goaway that lies about what it took: the last session is of the future, or
// the second is another one.
func TestLyingGoawayOfAProgram(t *testing.T) {
	withRoguePrograms(t, func(v *victim) {
		p := v.program(window(1), "@model")
		first, second := v.calling(v.honest, "db@model", "1", nil), v.calling(v.honest, "db@model", "2", nil)
		s, _ := p.asked("1")
		p.say(rogueGoaway(1<<63), rogueGoaway(0))
		wantError{verdict: mesh.Rejected, is: mesh.ErrDraining}.check(t, (<-second).err)
		p.say(rogueReply(s, []byte("x")))
		v.gets(first, "x")
		if st := p.ended(); st.Code() != codes.OK {
			t.Errorf("the stream ended with %v", st)
		}
	})
}

// Serve is off unless the process is told; streams of Serve count as links (M54).
func TestServeIsOffAndCounted(t *testing.T) {
	withVictim(t, func(v *victim) {
		p := v.programOn(v.conn())
		p.listen()
		if st := p.ended(); st.Code() != codes.PermissionDenied || !strings.Contains(st.Message(), "AllowServe") {
			t.Errorf("ended with %v", st)
		}
	})
	withRoguePrograms(t, func(v *victim) { // the honest client has one link of three
		p := v.program(nil, "@model")
		r := v.rogue()
		q := v.programOn(v.conn())
		q.listen()
		if st := q.ended(); st.Code() != codes.ResourceExhausted || !strings.HasPrefix(st.Message(), "too many links") {
			t.Errorf("ended with %v", st)
		}
		r.cancel()
		synctest.Wait()
		p.serves(v, "@model")
		v.program(nil, "@next")
	}, func(o *mesh.Options) { o.Limits.Links = 3 })
}
