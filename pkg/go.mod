module github.com/vmhost-project/vmhost/pkg

go 1.26.0

require github.com/vmhost-project/vmhost/proto v0.0.0

replace github.com/vmhost-project/vmhost/proto => ../proto
