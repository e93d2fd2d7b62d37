package port

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// The versions of the agents' own HTTP protocols (join, calls about guests, administration)
// that this version speaks. A side uses the lower one of both sides' highest. Within a
// version, whoever reads skips the JSON fields that it does not know, so that one may be
// added where it is harmless to skip; anything else needs a new version.
const (
	lowestProtocol  = 1
	highestProtocol = 1
)

// speakerHeader is the header in which both sides of such a protocol introduce themselves
// with every request and answer.
const speakerHeader = "Virtmesh-Speaker"

// maxSpeaker bounds the header, and maxName a name or a version in it.
const (
	maxSpeaker = 1024
	maxName    = 255
)

// Range is the versions of a protocol that a side speaks.
type Range struct{ Lowest, Highest uint32 }

// Speaker is what a side of an HTTP protocol of the agents says of itself.
type Speaker struct {
	// Host is the name of the host; empty for a command.
	Host string
	// Version is the version of the program.
	Version string
	// Protocol is the versions of the protocol that the side speaks.
	Protocol Range
	// Levels is the feature levels that the program knows; zero if they do not matter.
	Levels raftstore.LevelRange
	// Mesh is the feature level of the mesh that the side belongs to; zero if it knows none.
	Mesh uint32
}

// NewSpeaker returns what this program says of itself.
func NewSpeaker(host, version string) Speaker {
	return Speaker{Host: host, Version: version, Protocol: Range{lowestProtocol, highestProtocol}}
}

// String names the side for people.
func (s Speaker) String() string {
	who := "this program"
	if s.Host != "" {
		who = "host " + s.Host
	}
	if s.Version != "" {
		who += " (version " + s.Version + ")"
	}
	return who
}

// Introduce writes what the side says of itself into the header of a request or an answer.
func (s Speaker) Introduce(header http.Header) {
	values := url.Values{}
	set := func(name, value string) {
		if value != "" {
			values.Set(name, value)
		}
	}
	set("host", s.Host)
	set("version", s.Version)
	set("protocol", rangeText(s.Protocol.Lowest, s.Protocol.Highest))
	if s.Levels.Highest > 0 {
		set("levels", rangeText(s.Levels.Lowest, s.Levels.Highest))
	}
	if s.Mesh > 0 {
		set("mesh", strconv.FormatUint(uint64(s.Mesh), 10))
	}
	header.Set(speakerHeader, values.Encode())
}

// SpeakerOf returns what the other side says of itself, and whether it does. Fields that
// this version does not know are skipped.
func SpeakerOf(header http.Header) (s Speaker, introduced bool, err error) {
	text := header.Get(speakerHeader)
	if text == "" {
		return Speaker{}, false, nil
	}
	if len(text) > maxSpeaker {
		return Speaker{}, true, fault.New(fault.Invalid, "the header %s is longer than %d bytes", speakerHeader, maxSpeaker)
	}
	values, err := url.ParseQuery(text)
	if err != nil {
		return Speaker{}, true, fault.New(fault.Invalid, "the header %s cannot be read", speakerHeader)
	}
	s.Host, s.Version = values.Get("host"), values.Get("version")
	var protocolErr, levelsErr, meshErr error
	s.Protocol.Lowest, s.Protocol.Highest, protocolErr = parseRange(values.Get("protocol"))
	if values.Has("levels") {
		s.Levels.Lowest, s.Levels.Highest, levelsErr = parseRange(values.Get("levels"))
	}
	if values.Has("mesh") {
		s.Mesh, meshErr = parseNumber(values.Get("mesh"))
	}
	if err := errors.Join(protocolErr, levelsErr, meshErr); err != nil {
		return Speaker{}, true, fault.New(fault.Invalid, "the header %s: %w", speakerHeader, err)
	}
	if !isName(s.Host) || !isName(s.Version) {
		return Speaker{}, true, fault.New(fault.Invalid, "the header %s names a host or a version that is no name", speakerHeader)
	}
	return s, true, nil
}

// isName reports whether a text can be shown as it is.
func isName(text string) bool {
	return len(text) <= maxName && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

func rangeText(lowest, highest uint32) string { return fmt.Sprintf("%d-%d", lowest, highest) }

// parseRange reads two numbers, 1 or more, such as 1-3.
func parseRange(text string) (lowest, highest uint32, err error) {
	low, high, _ := strings.Cut(text, "-")
	lowest, lowErr := parseNumber(low)
	highest, highErr := parseNumber(high)
	if lowErr != nil || highErr != nil || lowest > highest {
		return 0, 0, fmt.Errorf("%.20q is no range", text)
	}
	return lowest, highest, nil
}

func parseNumber(text string) (uint32, error) {
	number, err := strconv.ParseUint(text, 10, 32)
	if err != nil || number == 0 {
		return 0, fmt.Errorf("%.20q is not a number from 1 on", text)
	}
	return uint32(number), nil
}

// Meet returns the version of the protocol that two sides use, or why they cannot work
// together: which of them is too old, and what to install there. Both sides come to the
// same result. The level of a mesh never falls, so it is the higher one of what both say.
func Meet(a, b Speaker) (uint32, error) {
	use := min(a.Protocol.Highest, b.Protocol.Highest)
	mesh := a
	if b.Mesh > a.Mesh {
		mesh = b
	}
	for _, pair := range [][2]Speaker{{a, b}, {b, a}} {
		host, other := pair[0], pair[1]
		if use < other.Protocol.Lowest {
			return 0, fault.New(fault.TooOld, "%s speaks versions %d to %d of the protocol between hosts, and %s only up to %d",
				other, other.Protocol.Lowest, other.Protocol.Highest, host, host.Protocol.Highest).WithRemedy(installRemedy(other.Version) + " there")
		}
		if mesh.Mesh == 0 || host.Levels.Highest == 0 {
			continue
		}
		if err := CheckLevel(mesh.Mesh, mesh.Version, host); err != nil {
			return 0, err
		}
	}
	return use, nil
}

// CheckLevel returns why a host cannot take part in a mesh at a feature level. version is
// that of a host that can.
func CheckLevel(mesh uint32, version string, host Speaker) error {
	switch {
	case host.Levels.Contains(mesh):
		return nil
	case host.Levels.Highest < mesh:
		return fault.New(fault.TooOld, "this mesh is at feature level %d, and %s knows %s", mesh, host, host.Levels).
			WithRemedy(installRemedy(version) + " there")
	}
	return fault.New(fault.TooNew, "this mesh is at feature level %d, and %s knows %s", mesh, host, host.Levels).
		WithRemedy("raise the mesh first ('virtmesh level raise'), or " + olderRemedy(version) + " there")
}

func olderRemedy(version string) string {
	if version == "" {
		return "install an older version"
	}
	return "install version " + version
}

func installRemedy(version string) string {
	if version == "" {
		return "install a newer version"
	}
	return "install version " + version + " or newer"
}

// MeetCallers introduces this side in every answer, and refuses callers that cannot be
// spoken to. A caller that does not introduce itself, such as curl, is served.
func MeetCallers(self func() Speaker, log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := self()
		own.Introduce(w.Header())
		caller, introduced, err := SpeakerOf(r.Header)
		if err == nil && introduced {
			_, err = Meet(own, caller)
		}
		if err != nil {
			log.Debug("a caller was refused", "from", r.RemoteAddr, "err", err)
			fault.Write(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsNewer reports whether the sender of a header speaks a newer version of the protocol
// than this program knows, and so may send fields that this program does not know.
func IsNewer(header http.Header) bool {
	s, introduced, err := SpeakerOf(header)
	return err == nil && introduced && s.Protocol.Highest > highestProtocol
}
