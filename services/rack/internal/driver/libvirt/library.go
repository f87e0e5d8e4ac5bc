package libvirt

import (
	"sync"

	lv "github.com/digitalocean/go-libvirt"
)

// record is the XML of one domain, read.
type record struct {
	domain  *domain
	problem string
	name    string
	id      int32
	// version is that of the domain when it was read, see library.versions.
	version uint64
}

// library keeps the XML of the domains of one connection.
type library struct {
	mu      sync.Mutex
	records map[lv.UUID]*record
	// versions counts the events of each domain, so that an event that arrives
	// while its XML is read is not lost.
	versions map[lv.UUID]uint64
	// news counts all events.
	news uint64
	// hasEvents: the libvirtd tells when a domain changes.
	hasEvents bool
	reads     int
}

func newLibrary() *library {
	return &library{records: map[lv.UUID]*record{}, versions: map[lv.UUID]uint64{}}
}

// changed notes an event of a domain.
func (l *library) changed(id lv.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.versions[id]++
	l.news++
}

// find answers what is kept of a domain, nil when it must be read.
func (l *library) find(dom lv.Domain) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[dom.UUID]
	if r == nil || r.name != dom.Name || r.id != dom.ID || r.version != l.versions[dom.UUID] {
		return nil
	}
	return r
}

func (l *library) version(id lv.UUID) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.versions[id]
}

func (l *library) put(id lv.UUID, r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[id] = r
}

// keep forgets all domains but these. news is that before these were listed: a
// domain that an event told of since may be missing among them.
func (l *library) keep(present map[lv.UUID]bool, news uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.news != news {
		return
	}
	for id := range l.versions {
		if !present[id] {
			delete(l.versions, id)
		}
	}
	for id := range l.records {
		if !present[id] {
			delete(l.records, id)
		}
	}
}

// begin is called before a bulk read: it answers the count of events, and makes
// all XML be read again where no events come and it is time.
func (l *library) begin() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reads++; !l.hasEvents && l.reads%rereadWithoutNews == 0 {
		clear(l.records)
	}
	return l.news
}
