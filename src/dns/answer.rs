//! What a query is answered: bytes in, bytes out, from one zone held in memory.
//!
//! hickory-proto reads queries and writes names and data; decisions and the message's layout are here. hickory-server was
//! tried and left out: its answers grow to whatever size the client claims, a truncated one loses its OPT record, and after
//! 120 names none is compressed any more, which costs a third of the stores that an answer over TCP can hold.

use std::collections::HashMap;

use atlas_core::thanos::zone::{self, RecordData, Soa, TTL, Zone};
use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{
    BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding,
};

/// Longest UDP message either way, in bytes, whatever a client offers: it passes every usual link in one piece (the
/// default of "DNS flag day 2020"; fragments get lost, and large answers to forged senders are an attack).
pub const UDP_MAX: u16 = 1232;
/// Longest UDP answer to a client without EDNS (RFC 1035 §4.2.1).
const UDP_PLAIN: u16 = 512;
/// Length of a message's header.
const HEADER: usize = 12;
/// "The name that stands right behind the header": the question's (RFC 1035 §4.1.4).
const NAME_OF_QUESTION: [u8; 2] = [0xC0, HEADER as u8];

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A zone, ready to be asked.
#[derive(Debug)]
pub struct Answers {
    origin: LowerName,
    /// The SOA record with its name, for the authority section.
    soa: Vec<u8>,
    /// Every name that exists with its records; a name that only has others below it has none (RFC 8020).
    names: HashMap<LowerName, Vec<Prepared>>,
}

/// A record as it is sent, but for the name at its beginning.
#[derive(Debug)]
struct Prepared {
    kind: RecordType,
    bytes: Vec<u8>,
}

/// An answer in the making.
struct Response<'a> {
    metadata: Metadata,
    question: Option<&'a Query>,
    answers: Vec<&'a [u8]>,
    authority: Option<&'a [u8]>,
    edns: Option<Edns>,
}

/// Answers a query; `None` if it deserves no answer. Without a zone yet, every question is answered "not now".
pub fn respond(answers: Option<&Answers>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(query)).ok()?;
    // Two servers must not answer each other's answers.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let parsed = parse(query, &header);
    let (response, udp_limit) = match &parsed {
        Ok(query) => (answer(answers, query), query.max_payload().clamp(UDP_PLAIN, UDP_MAX)),
        Err(code) => (Response::empty(&header.metadata, *code), UDP_PLAIN),
    };
    let limit = if transport == Transport::Udp { udp_limit } else { u16::MAX };
    response
        .encode(limit.into())
        .inspect_err(|error| tracing::debug!(%error, "cannot encode a DNS answer"))
        .ok()
}

fn parse(query: &[u8], header: &Header) -> Result<Message, ResponseCode> {
    if header.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return Err(ResponseCode::FormErr);
    }
    Message::from_vec(query).map_err(|_| ResponseCode::FormErr)
}

fn answer<'a>(answers: Option<&'a Answers>, query: &'a Message) -> Response<'a> {
    let mut response = Response::empty(&query.metadata, ResponseCode::NoError);
    response.question = query.queries.first();
    response.edns = query.edns.as_ref().map(edns);
    match (answers, response.question) {
        _ if query.version() > 0 => response.metadata.response_code = ResponseCode::BADVERS,
        (Some(answers), Some(question)) => answers.answer(question, &mut response),
        _ => response.metadata.response_code = ResponseCode::ServFail,
    }
    response
}

/// The OPT record that answers an OPT record.
fn edns(of_query: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX);
    // RFC 3225 §3: copied, also by a server without signatures.
    edns.flags_mut().dnssec_ok = of_query.flags().dnssec_ok;
    edns
}

impl Answers {
    /// Prepares a zone.
    pub fn new(zone: &Zone) -> Result<Self, ProtoError> {
        let origin = Name::from_ascii(&zone.origin)?;
        let soa = RData::SOA(soa(&zone.soa())?);
        let mut answers = Self {
            soa: to_bytes(&Record::from_rdata(origin.clone(), TTL, soa.clone()))?,
            origin: LowerName::from(&origin),
            names: HashMap::new(),
        };
        answers.add(&origin, soa)?;
        for record in &zone.records {
            answers.add(&Name::from_ascii(&record.name)?, rdata(record)?)?;
        }
        Ok(answers)
    }

    fn add(&mut self, name: &Name, data: RData) -> Result<(), ProtoError> {
        let mut name = LowerName::from(name);
        self.names.entry(name.clone()).or_default().push(Prepared::new(data)?);
        while name != self.origin && !name.is_root() {
            name = name.base_name();
            self.names.entry(name.clone()).or_default();
        }
        Ok(())
    }

    fn answer<'a>(&'a self, question: &Query, response: &mut Response<'a>) {
        let name = LowerName::from(question.name());
        if !self.origin.zone_of(&name) || !is_served(question) {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        response.metadata.authoritative = true;
        match self.names.get(&name) {
            Some(records) => response.answers = of_kind(records, question.query_type()),
            None => response.metadata.response_code = ResponseCode::NXDomain,
        }
        // With it, that there is nothing may be remembered (RFC 2308).
        if response.answers.is_empty() {
            response.authority = Some(&self.soa);
        }
    }
}

/// No other class, and no zone transfers.
fn is_served(question: &Query) -> bool {
    let class = matches!(question.query_class(), DNSClass::IN | DNSClass::ANY);
    class && !matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
}

fn of_kind(records: &[Prepared], kind: RecordType) -> Vec<&[u8]> {
    records
        .iter()
        .filter(|record| kind == RecordType::ANY || record.kind == kind)
        .map(|record| record.bytes.as_slice())
        .collect()
}

impl Prepared {
    fn new(data: RData) -> Result<Self, ProtoError> {
        let record = Record::from_rdata(Name::root(), TTL, data);
        // The root's name is one byte.
        Ok(Self { kind: record.record_type(), bytes: to_bytes(&record)?.split_off(1) })
    }
}

/// Without pointers to other names, so that it can stand anywhere.
fn to_bytes(record: &Record) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.emit(&mut encoder)?;
    Ok(bytes)
}

fn soa(soa: &Soa) -> Result<SOA, ProtoError> {
    let (name_server, contact) =
        (Name::from_ascii(&soa.name_server)?, Name::from_ascii(&soa.contact)?);
    let seconds = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    Ok(SOA::new(
        name_server,
        contact,
        soa.serial,
        seconds(soa.refresh),
        seconds(soa.retry),
        seconds(soa.expire),
        soa.minimum,
    ))
}

fn rdata(record: &zone::DnsRecord) -> Result<RData, ProtoError> {
    Ok(match &record.data {
        RecordData::Ns(name) => RData::NS(NS(Name::from_ascii(name)?)),
        RecordData::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(target)?))
        }
        RecordData::A(ip) => RData::A(A(*ip)),
        RecordData::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
    })
}

impl Response<'_> {
    fn empty(query: &Metadata, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(query);
        metadata.response_code = code;
        Self { metadata, question: None, answers: Vec::new(), authority: None, edns: None }
    }

    /// At most `limit` bytes: records that don't fit are left out, and the header says so. The OPT record always fits (RFC 6891
    /// §7). There are no additional records: Thanos asks for addresses by itself, and they would only fill the answer.
    fn encode(mut self, limit: usize) -> Result<Vec<u8>, ProtoError> {
        let opt = self.opt()?;
        let room = limit - opt.len();
        let mut body = self.question.map(BinEncodable::to_bytes).transpose()?.unwrap_or_default();
        let mut counts =
            HeaderCounts { queries: self.question.map_or(0, |_| 1), ..HeaderCounts::default() };
        let mut add = |count: &mut u16, name: &[u8], record: &[u8]| {
            let fits = HEADER + body.len() + name.len() + record.len() <= room;
            if fits {
                body.extend_from_slice(name);
                body.extend_from_slice(record);
                *count += 1;
            }
            fits
        };
        let whole =
            self.answers.iter().all(|answer| add(&mut counts.answers, &NAME_OF_QUESTION, answer))
                && self.authority.iter().all(|soa| add(&mut counts.authorities, &[], soa));
        self.metadata.truncation = !whole;
        counts.additionals = self.edns.map_or(0, |_| 1);
        let header = Header { metadata: self.metadata, counts }.to_bytes()?;
        Ok([header, body, opt].concat())
    }

    /// The OPT record, which also has the upper bits of the response code; empty without EDNS.
    fn opt(&mut self) -> Result<Vec<u8>, ProtoError> {
        let Some(edns) = &mut self.edns else { return Ok(Vec::new()) };
        edns.set_rcode_high(self.metadata.response_code.high());
        Record::from(&*edns).to_bytes()
    }
}
