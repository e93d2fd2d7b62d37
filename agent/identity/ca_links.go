package identity

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// CAs are linked in both directions, and neither direction can be made up by who can only write
// the record of the CA, as any host can:
//
//   - Successor, the new CA as the one before signs it. Who trusts the one before trusts the new
//     one by it (CheckVouched), and verifies what the new one signs (Vouches).
//   - The new CA's own certificate names the pin of the one before. Who trusts the new one knows by
//     it which CA is a former one (vouchedFormer). Successor does not say that: anybody can sign
//     a certificate for the public key of a CA.

// isCA reports whether a certificate may sign others. Those of hosts and people may not.
func isCA(c *x509.Certificate) bool {
	return c.BasicConstraintsValid && c.IsCA && c.KeyUsage&x509.KeyUsageCertSign != 0
}

const predecessorPrefix = "after "

// predecessorUnit is the organizational unit of a CA that takes the place of one with a pin.
func predecessorUnit(before Pin) string { return predecessorPrefix + before.String() }

// succeeds reports whether a CA says that it has taken the place of another one.
func succeeds(ca *x509.Certificate, before Pin) bool {
	return slices.Contains(ca.Subject.OrganizationalUnit, predecessorUnit(before))
}

// CheckVouched returns an error unless all CAs of the record's bundle are trusted already, or
// were made with the keys of CAs that are: any host can write the record.
func (r *CARecord) CheckVouched(trusted []byte) error { return r.checkVouched(trusted, r.Bundle) }

// CheckNext returns an error unless the next CA was made with the key of the one that signs, which is
// one of those that are trusted (PEM), and says that it takes its place. Any host can write another
// one into the record.
func (r *CARecord) CheckNext(trusted []byte) error {
	next, err := ParseCertificates(r.Next)
	if err != nil {
		return fmt.Errorf("the next CA in %s: %w", KeyCA, err)
	}
	signing, err := r.pin()
	if err != nil {
		return err
	}
	if !isCA(next[0]) || next[0].CheckSignatureFrom(next[0]) != nil || !succeeds(next[0], signing) {
		return fmt.Errorf("the next CA in %s does not take the place of the one that signs", KeyCA)
	}
	return r.checkVouched(trusted, slices.Concat(r.Certificate, r.Next))
}

func (r *CARecord) checkVouched(trusted, cas []byte) error {
	if err := CheckLinks(trusted, r.Links(), cas); err != nil {
		return fmt.Errorf("%s: %w", KeyCA, err)
	}
	return nil
}

// Links returns the CAs of the record as those before them sign them, PEM.
func (r *CARecord) Links() []byte {
	var links []*x509.Certificate
	for _, pem := range append([][]byte{r.Successor}, formerSuccessors(r.Former)...) {
		if certs, err := ParseCertificates(pem); err == nil {
			links = append(links, certs[0])
		}
	}
	return EncodeCertificates(links...)
}

// maxLinks bounds how many links are looked at: more than a record has.
const maxLinks = 2 * maxFormerCAs

// CheckLinks returns an error unless all CAs (PEM) are trusted (PEM) already, or were made with the
// keys of CAs that are, as links (PEM) show.
func CheckLinks(trusted, links, cas []byte) error {
	known, err := ParseCertificates(trusted)
	if err != nil {
		return err
	}
	knows := func(pin Pin) bool {
		return slices.ContainsFunc(known, func(c *x509.Certificate) bool { return PinOf(c) == pin })
	}
	shown, _ := ParseCertificates(links) // there may be none
	shown = slices.DeleteFunc(shown, func(c *x509.Certificate) bool { return !isCA(c) })
	shown = shown[:min(len(shown), maxLinks)]
	for range shown {
		for _, link := range shown {
			if !knows(PinOf(link)) && signerOf(link, known) != nil {
				known = append(known, link)
			}
		}
	}
	for _, pin := range pinsOf(cas) {
		if !knows(pin) {
			return fmt.Errorf("no CA of the mesh has vouched for the CA %s", pin)
		}
	}
	return nil
}

func formerSuccessors(former []FormerCA) [][]byte {
	var all [][]byte
	for _, f := range former {
		all = append(all, f.Successor)
	}
	return all
}

// Vouches returns for each of the record's former CAs, in their order, whether clients that know
// only that one verify what the CA signs that signs now. CAs of versions before level.Succession
// allow no CA below them.
func (r *CARecord) Vouches() []bool {
	vouch := make([]bool, len(r.Former))
	line := r.line()
	_, good := walkLine(r.Certificate, line)
	for n, ok := range good {
		if at := n - (len(line) - len(r.Former)); at >= 0 {
			vouch[at] = ok
		}
	}
	return vouch
}

// line returns the CAs of before, the newest first, with the one that hosts still trust while it
// is replaced.
func (r *CARecord) line() []FormerCA {
	if r.Stage != CASigning {
		return r.Former
	}
	before, err := r.retiring()
	if err != nil {
		return nil
	}
	return append([]FormerCA{{Certificate: before, Successor: r.Successor}}, r.Former...)
}

// walkLine goes back from the CA that signs (PEM) through those of before, for as far as each has
// signed the one after it. It returns what they have signed, and which of them allow for as many
// CAs below them as there are by now.
func walkLine(signing []byte, line []FormerCA) (links []*x509.Certificate, vouch []bool) {
	after := pinsOf(signing)
	for _, f := range line {
		ca, err := ParseCertificates(f.Certificate)
		if err != nil {
			break
		}
		link, err := ParseCertificates(f.Successor)
		if err != nil || len(after) == 0 || PinOf(link[0]) != after[0] || !isCA(link[0]) || signerOf(link[0], ca[:1]) == nil {
			break
		}
		links = append(links, link[0])
		vouch = append(vouch, allows(ca[0], len(links)))
		after = []Pin{PinOf(ca[0])}
	}
	return links, vouch
}

// allows reports whether clients that trust a CA verify what stands below a number of CAs after it.
func allows(ca *x509.Certificate, below int) bool {
	bounded := ca.MaxPathLen > 0 || ca.MaxPathLen == 0 && ca.MaxPathLenZero
	return !bounded || below <= ca.MaxPathLen
}

// successors returns the certificates that lead from former CAs to the one that signs, for
// servers to show at a time: all that the oldest of these CAs needs.
func (r *CARecord) successors(now time.Time) []*x509.Certificate {
	line := r.line()
	links, vouch := walkLine(r.Certificate, line)
	shown := 0
	for n, link := range links {
		if !now.Before(link.NotAfter) {
			break
		}
		stillTrusted := n == 0 && len(line) > len(r.Former)
		if vouch[n] && (stillTrusted || now.Before(line[n].Until)) {
			shown = n + 1
		}
	}
	return links[:shown]
}

// vouchedFormer returns the former CAs of the record of which the CAs that this host trusts (PEM)
// say that they took their place, each with its time no longer than what it signed last is valid.
// Any host can write others into the record.
func (r *CARecord) vouchedFormer(trusted []byte) []FormerCA {
	known, err := ParseCertificates(trusted)
	if err != nil {
		return nil
	}
	var vouched []FormerCA
	for _, f := range r.Former { // the newest first
		certs, err := ParseCertificates(f.Certificate)
		if err != nil || !isCA(certs[0]) || certs[0].CheckSignatureFrom(certs[0]) != nil {
			continue
		}
		ca := certs[0]
		at := slices.IndexFunc(known, func(after *x509.Certificate) bool { return succeeds(after, PinOf(ca)) })
		if at < 0 {
			continue
		}
		if end := MadeAt(known[at]).Add(successorLifetime); end.Before(f.Until) {
			f.Until = end
		}
		known, vouched = append(known, ca), append(vouched, f)
	}
	return vouched
}
