package admin

import (
	"fmt"
	"net/http"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
)

func (a *handler) listeners(w http.ResponseWriter, r *http.Request) {
	all := a.opts.Listeners()
	if r.URL.Query().Get("format") != "json" {
		for _, l := range all {
			for _, address := range l.Addresses {
				fmt.Fprintf(w, "%s::%s\n", l.Name, address)
			}
		}
		return
	}
	out := &adminv3.Listeners{}
	for _, l := range all {
		if len(l.Addresses) == 0 {
			continue
		}
		s := &adminv3.ListenerStatus{Name: l.Name, LocalAddress: address(l.Addresses[0])}
		for _, more := range l.Addresses[1:] {
			s.AdditionalLocalAddresses = append(s.AdditionalLocalAddresses, address(more))
		}
		out.ListenerStatuses = append(out.ListenerStatuses, s)
	}
	answerJSON(w, out, false)
}
