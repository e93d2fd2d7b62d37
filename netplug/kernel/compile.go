package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"virtmesh/netplug/ruleset"
)

// register is where a match loads what it compares.
const register = 1

// ctDestinationNAT is the bit of a connection whose destination was rewritten.
const ctDestinationNAT = 1 << 5

// Where fields are in a packet.
const (
	etherSource     = 6
	arpSenderMAC    = 8
	arpSenderIP     = 14
	ipSource        = 12
	ipDestination   = 16
	dhcpClientMAC   = 8 + 28
	icmpEchoType    = 8
	ifNameSize      = unix.IFNAMSIZ
	sourcePort      = 0
	destinationPort = 2
)

// compiler turns one rule into the kernel's expressions. It remembers which protocol the
// rule has already asked for, so that it asks once.
type compiler struct {
	family  ruleset.Family
	sets    map[string]*nftables.Set
	out     []expr.Any
	network uint16
	l4      byte
}

// compile turns a rule into the kernel's expressions.
func compile(f ruleset.Family, r ruleset.Rule, sets map[string]*nftables.Set) ([]expr.Any, error) {
	c := &compiler{family: f, sets: sets}
	for _, m := range r.If {
		if err := c.match(m); err != nil {
			return nil, err
		}
	}
	if err := c.verdict(r.Do); err != nil {
		return nil, err
	}
	return c.out, nil
}

func (c *compiler) add(e ...expr.Any) { c.out = append(c.out, e...) }

// compare compares the register.
func (c *compiler) compare(not bool, data []byte) {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	c.add(&expr.Cmp{Op: op, Register: register, Data: data})
}

func (c *compiler) meta(key expr.MetaKey) { c.add(&expr.Meta{Key: key, Register: register}) }

func (c *compiler) payload(base expr.PayloadBase, offset, length uint32) {
	c.add(&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length})
}

// needNetwork asks for the network protocol, by the number it has on Ethernet.
func (c *compiler) needNetwork(etherType uint16) {
	if c.network == etherType {
		return
	}
	c.network = etherType
	if c.family == ruleset.Inet && etherType == unix.ETH_P_IP {
		c.meta(expr.MetaKeyNFPROTO)
		c.compare(false, []byte{unix.NFPROTO_IPV4})
		return
	}
	c.meta(expr.MetaKeyPROTOCOL)
	c.compare(false, binary.BigEndian.AppendUint16(nil, etherType))
}

// needTransport asks for the transport protocol.
func (c *compiler) needTransport(proto byte) {
	if c.l4 == proto {
		return
	}
	c.l4 = proto
	c.meta(expr.MetaKeyL4PROTO)
	c.compare(false, []byte{proto})
}

func (c *compiler) match(m ruleset.Match) error {
	switch m := m.(type) {
	case ruleset.InInterface:
		c.meta(expr.MetaKeyIIFNAME)
		c.compare(m.Not, interfaceName(m.Name))
	case ruleset.OutInterface:
		c.meta(expr.MetaKeyOIFNAME)
		c.compare(m.Not, interfaceName(m.Name))
	case ruleset.EtherSource:
		c.payload(expr.PayloadBaseLLHeader, etherSource, 6)
		c.compare(m.Not, m.MAC)
	case ruleset.ARPSource:
		c.needNetwork(unix.ETH_P_ARP)
		c.payload(expr.PayloadBaseNetworkHeader, arpSenderIP, 4)
		c.compare(false, m.Addr.AsSlice())
	case ruleset.ARPSenderMAC:
		c.needNetwork(unix.ETH_P_ARP)
		c.payload(expr.PayloadBaseNetworkHeader, arpSenderMAC, 6)
		c.compare(m.Not, m.MAC)
	case ruleset.IPAddr:
		c.ipAddr(m)
	case ruleset.NotIPv4:
		c.meta(expr.MetaKeyNFPROTO)
		c.compare(true, []byte{unix.NFPROTO_IPV4})
	default:
		return c.transportMatch(m)
	}
	return nil
}

// transportMatch compiles what lies above the network's protocol.
func (c *compiler) transportMatch(m ruleset.Match) error {
	switch m := m.(type) {
	case ruleset.Port:
		c.needTransport(m.Protocol.Number())
		offset := uint32(sourcePort)
		if m.End == ruleset.Destination {
			offset = destinationPort
		}
		c.payload(expr.PayloadBaseTransportHeader, offset, 2)
		c.compare(false, binary.BigEndian.AppendUint16(nil, m.Port))
	case ruleset.DHCPClientMAC:
		if c.l4 != unix.IPPROTO_UDP {
			return errors.New("a client address of DHCP needs a UDP port first")
		}
		c.payload(expr.PayloadBaseTransportHeader, dhcpClientMAC, 6)
		c.compare(m.Not, m.MAC)
	case ruleset.ICMPEcho:
		c.needTransport(unix.IPPROTO_ICMP)
		c.payload(expr.PayloadBaseTransportHeader, 0, 1)
		c.compare(false, []byte{icmpEchoType})
	case ruleset.Tracked:
		c.add(&expr.Ct{Key: expr.CtKeySTATE, Register: register})
		c.anyBit(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	case ruleset.Translated:
		c.add(&expr.Ct{Key: expr.CtKeySTATUS, Register: register})
		c.anyBit(ctDestinationNAT)
	default:
		return fmt.Errorf("no such match: %T", m)
	}
	return nil
}

func (c *compiler) ipAddr(m ruleset.IPAddr) {
	c.ipField(m.End)
	if bits := m.Prefix.Bits(); bits < 32 {
		c.add(&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: net.CIDRMask(bits, 32), Xor: make([]byte, 4),
		})
	}
	c.compare(m.Not, m.Prefix.Masked().Addr().AsSlice())
}

// ipField loads the IPv4 address at the named end.
func (c *compiler) ipField(end ruleset.Direction) {
	c.needNetwork(unix.ETH_P_IP)
	offset := uint32(ipSource)
	if end == ruleset.Destination {
		offset = ipDestination
	}
	c.payload(expr.PayloadBaseNetworkHeader, offset, 4)
}

// anyBit holds when one of the bits is set in the register.
func (c *compiler) anyBit(bits uint32) {
	c.add(&expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
	})
	c.compare(true, make([]byte, 4))
}

func (c *compiler) verdict(v ruleset.Verdict) error {
	switch v := v.(type) {
	case ruleset.Lookup:
		c.meta(expr.MetaKeyIIFNAME)
		// Register 0 is the verdict.
		return c.lookup(expr.Lookup{SourceRegister: register, DestRegister: 0, IsDestRegSet: true}, v.Map)
	case ruleset.Masquerade:
		c.add(&expr.Masq{})
	default:
		e, err := verdict(v)
		if err != nil {
			return err
		}
		c.add(e)
	}
	return nil
}

// lookup looks the register up in a set or map of the table.
func (c *compiler) lookup(e expr.Lookup, name string) error {
	set, ok := c.sets[name]
	if !ok {
		return fmt.Errorf("no set or map %s in the table", name)
	}
	e.SetName, e.SetID = set.Name, set.ID
	c.add(&e)
	return nil
}

// interfaceName is a name as the kernel compares it: filled up with zeros, or cut off
// before them where a star stands for any ending.
func interfaceName(name string) []byte {
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		return []byte(prefix)
	}
	b := make([]byte, ifNameSize)
	copy(b, name)
	return b
}
