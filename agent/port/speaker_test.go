package port

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// speaker returns a side of a protocol.
func speaker(host, version string, protocol Range, levels raftstore.LevelRange, mesh uint32) Speaker {
	return Speaker{Host: host, Version: version, Protocol: protocol, Levels: levels, Mesh: mesh}
}

// Two sides use the newest version that both speak, and otherwise both say which of them is
// too old, and what to install there.
func TestMeet(t *testing.T) {
	none := raftstore.LevelRange{}
	for name, test := range map[string]struct {
		a, b Speaker
		use  uint32
		code fault.Code
		text string
	}{
		"the same":            {a: speaker("a", "1", Range{1, 1}, none, 0), b: speaker("b", "1", Range{1, 1}, none, 0), use: 1},
		"one is newer":        {a: speaker("a", "1", Range{1, 2}, none, 0), b: speaker("b", "2", Range{2, 5}, none, 0), use: 2},
		"one is too old":      {a: speaker("a", "1", Range{1, 2}, none, 0), b: speaker("b", "9", Range{3, 5}, none, 0), code: fault.TooOld, text: "host b (version 9) speaks versions 3 to 5 of the protocol between hosts, and host a (version 1) only up to 2; install version 9 or newer there"},
		"a command":           {a: speaker("", "1", Range{1, 1}, none, 0), b: speaker("b", "2", Range{2, 2}, none, 0), code: fault.TooOld, text: "and this program (version 1) only up to 1"},
		"levels that fit":     {a: speaker("a", "1", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2), b: speaker("b", "2", Range{1, 1}, raftstore.LevelRange{Lowest: 2, Highest: 3}, 2), use: 1},
		"a level too high":    {a: speaker("a", "1", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 1}, 0), b: speaker("b", "2", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2), code: fault.TooOld, text: "this mesh is at feature level 2, and host a (version 1) knows feature level 1; install version 2 or newer there"},
		"a level too low":     {a: speaker("a", "9", Range{1, 1}, raftstore.LevelRange{Lowest: 3, Highest: 4}, 0), b: speaker("b", "2", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2), code: fault.TooNew, text: "raise the mesh first"},
		"of no version":       {a: speaker("a", "9", Range{1, 1}, raftstore.LevelRange{Lowest: 3, Highest: 4}, 0), b: speaker("b", "", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2), code: fault.TooNew, text: "or install an older version there"},
		"one lags behind":     {a: speaker("a", "1", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 1), b: speaker("b", "2", Range{1, 1}, raftstore.LevelRange{Lowest: 2, Highest: 3}, 2), use: 1},
		"levels do not count": {a: speaker("a", "1", Range{1, 1}, none, 0), b: speaker("b", "2", Range{1, 1}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2), use: 1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range [][2]Speaker{{test.a, test.b}, {test.b, test.a}} {
				use, err := Meet(pair[0], pair[1])
				if test.code == "" && (err != nil || use != test.use) {
					t.Errorf("version %d, %v; want %d", use, err, test.use)
				}
				if test.code != "" && (!errors.Is(err, test.code) || !strings.Contains(err.Error(), test.text)) {
					t.Errorf("error %v, want %s with %q", err, test.code, test.text)
				}
			}
		})
	}
}

// What one side says of itself reaches the other whole, whatever later versions say besides.
func TestSpeakersIntroduceThemselves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[ -~]{0,60}`)
		interval := func(label string) (low, high uint32) {
			low = rapid.Uint32Range(1, 1<<32-1).Draw(t, label+" from")
			return low, rapid.Uint32Range(low, 1<<32-1).Draw(t, label+" to")
		}
		want := Speaker{Host: name.Draw(t, "host"), Version: name.Draw(t, "version"), Mesh: rapid.Uint32().Draw(t, "mesh")}
		want.Protocol.Lowest, want.Protocol.Highest = interval("protocol")
		if rapid.Bool().Draw(t, "says levels") {
			want.Levels.Lowest, want.Levels.Highest = interval("levels")
		}
		header := http.Header{}
		want.Introduce(header)
		header.Set(speakerHeader, header.Get(speakerHeader)+"&zone="+url.QueryEscape(name.Draw(t, "more")))
		got, introduced, err := SpeakerOf(header)
		if err != nil || !introduced || got != want {
			t.Fatalf("%+v arrives as %+v, %v", want, got, err)
		}
	})
}

func TestIntroductionsThatAreNone(t *testing.T) {
	if s, introduced, err := SpeakerOf(http.Header{}); s != (Speaker{}) || introduced || err != nil {
		t.Errorf("no header: %+v %v %v", s, introduced, err)
	}
	for _, text := range []string{
		"host=a", "protocol=", "protocol=1", "protocol=2-1", "protocol=0-1", "protocol=1-4294967296", "protocol=a-b", "protocol=1-1&levels=3-2",
		"protocol=1-1&mesh=0", "protocol=1-1&mesh=-1", "protocol=1-1&host=%0a", "protocol=1-1&version=%ff", "protocol=1-1&host=%", "protocol=1-1&x=" + strings.Repeat("x", maxSpeaker),
		"protocol=1-1&host=" + strings.Repeat("x", maxName+1),
	} {
		header := http.Header{}
		header.Set(speakerHeader, text)
		if s, _, err := SpeakerOf(header); !errors.Is(err, fault.Invalid) || len(err.Error()) > 200 || strings.Contains(err.Error(), "\n") || !utf8.ValidString(err.Error()) {
			t.Errorf("%.40q is read as %+v, %v", text, s, err)
		}
	}
}

func FuzzSpeakerOf(f *testing.F) {
	header := http.Header{}
	speaker("host1", "1.2.3", Range{1, 2}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 1).Introduce(header)
	f.Add(header.Get(speakerHeader))
	f.Add("protocol=1-1&levels=1-1&mesh=1;x")
	f.Fuzz(func(t *testing.T, text string) {
		header := http.Header{}
		header.Set(speakerHeader, text)
		s, introduced, err := SpeakerOf(header)
		if err != nil || !introduced {
			return
		}
		again := http.Header{}
		s.Introduce(again)
		if got, _, err := SpeakerOf(again); err != nil || got != s {
			t.Errorf("%+v arrives as %+v, %v", s, got, err)
		}
	})
}

// A host does not serve a caller that it cannot work with, tells it why, and says who it
// is; a caller that says nothing is served.
func TestCallersAreMet(t *testing.T) {
	own := speaker("host1", "v2", Range{2, 3}, raftstore.LevelRange{Lowest: 1, Highest: 2}, 2)
	served := 0
	handler := MeetCallers(func() Speaker { return own }, slog.New(slog.DiscardHandler), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	for name, test := range map[string]struct {
		introduce func(http.Header)
		want      string
	}{
		"curl":        {func(http.Header) {}, ""},
		"a host":      {speaker("host2", "v3", Range{3, 4}, raftstore.LevelRange{Lowest: 2, Highest: 3}, 2).Introduce, ""},
		"an old one":  {speaker("host2", "v1", Range{1, 1}, raftstore.LevelRange{}, 0).Introduce, "host host2 (version v1) only up to 1; install version v2 or newer there"},
		"below level": {speaker("host2", "v1", Range{2, 2}, raftstore.LevelRange{Lowest: 1, Highest: 1}, 1).Introduce, "this mesh is at feature level 2, and host host2 (version v1) knows feature level 1"},
		"nonsense":    {func(h http.Header) { h.Set(speakerHeader, "protocol=x") }, "is no range"},
	} {
		served = 0
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		test.introduce(request.Header)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		answer := recorder.Result()
		if told, _, err := SpeakerOf(answer.Header); err != nil || told != own {
			t.Errorf("%s: it says that it is %+v, %v", name, told, err)
		}
		if test.want == "" {
			if served != 1 || answer.StatusCode != http.StatusOK {
				t.Errorf("%s: not served, %d", name, answer.StatusCode)
			}
			continue
		}
		if told := fault.Read(answer); served != 0 || !strings.Contains(told.Error(), test.want) {
			t.Errorf("%s: served %d times and told %v, want %q", name, served, told, test.want)
		}
	}
}
