"""What people see of a store in a database: views, and a payload as JSON. Nothing of perdure reads it, and no commit pays for it."""

from __future__ import annotations

from typing import Final

_FLOAT_OF: Final = """
CREATE FUNCTION perdure.float_of(bits int8, exponent_bits int, mantissa_bits int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $function$
    SELECT CASE
        WHEN e = (1 << exponent_bits) - 1 THEN 'null'
        ELSE (CASE WHEN bits >> (exponent_bits + mantissa_bits) & 1 = 1 THEN -1 ELSE 1 END
            * CASE WHEN e = 0 THEN m / scale ELSE 1 + m / scale END
            * power(2::float8, greatest(e, 1) - (1 << (exponent_bits - 1)) + 1))::text
        END
    FROM (SELECT (bits >> mantissa_bits & ((1 << exponent_bits) - 1))::int AS e,
                 (bits & ((1::int8 << mantissa_bits) - 1))::float8 AS m, (1::int8 << mantissa_bits)::float8 AS scale) f
$function$
"""

_JSON_OF: Final = """
CREATE FUNCTION perdure.json_of(payload bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $function$
DECLARE
    raw bytea := payload || ''::bytea;  -- out of where it is stored, once
    size int := length(raw);
    place int := 0;
    tag int;
    wide int;  -- bytes of a number or of a length
    many int8;  -- a length
    number numeric;
    bits int8;
    said text;
    told text[] := '{}';
    depth int := 0;
    lefts int[] := '{}';  -- what is still to come in each open container,
    maps boolean[] := '{}';  -- whether its keys are among it,
    begun boolean := false;  -- and whether there was something in the innermost one
    is_key boolean := false;
BEGIN
    LOOP
        IF depth > 0 THEN
            is_key := maps[depth] AND lefts[depth] % 2 = 0;
            IF maps[depth] AND NOT is_key THEN
                told[cardinality(told) + 1] := ':';
            ELSIF begun THEN
                told[cardinality(told) + 1] := ',';
            END IF;
            lefts[depth] := lefts[depth] - 1;
        END IF;
        begun := true;
        tag := get_byte(raw, place);
        place := place + 1;
        many := CASE WHEN tag < 128 THEN -1 WHEN tag < 144 THEN tag - 128 WHEN tag < 160 THEN tag - 144 WHEN tag < 192 THEN tag - 160 ELSE -1 END;
        wide := CASE
            WHEN tag IN (196, 204, 208, 217) THEN 1
            WHEN tag IN (197, 205, 209, 218, 220, 222) THEN 2
            WHEN tag IN (198, 202, 206, 210, 219, 221, 223) THEN 4
            WHEN tag IN (203, 207, 211) THEN 8
            ELSE 0 END;
        IF wide > 0 THEN
            IF place + wide > size THEN
                RETURN NULL;
            END IF;
            bits := ('x' || lpad(encode(substring(raw FROM place + 1 FOR wide), 'hex'), 16, '0'))::bit(64)::int8;
            place := place + wide;
            IF tag < 199 OR tag > 216 THEN
                many := bits;
            END IF;
        END IF;
        IF tag < 128 THEN
            said := tag::text;
        ELSIF tag >= 224 THEN
            said := (tag - 256)::text;
        ELSIF tag BETWEEN 160 AND 191 OR tag BETWEEN 217 AND 219 OR tag BETWEEN 196 AND 198 THEN
            IF place + many > size THEN
                RETURN NULL;
            END IF;
            IF tag BETWEEN 196 AND 198 THEN
                said := '"' || translate(encode(substring(raw FROM place + 1 FOR many::int), 'base64'), E'\\n', '') || '"';
            ELSE
                said := to_json(convert_from(substring(raw FROM place + 1 FOR many::int), 'UTF8'))::text;
            END IF;
            place := place + many::int;
        ELSIF tag < 160 OR tag BETWEEN 220 AND 223 THEN
            IF is_key OR many > size THEN
                RETURN NULL;
            END IF;
            depth := depth + 1;
            maps[depth] := tag < 144 OR tag >= 222;
            lefts[depth] := many * CASE WHEN maps[depth] THEN 2 ELSE 1 END;
            begun := false;
            said := CASE WHEN maps[depth] THEN '{' ELSE '[' END;
        ELSIF tag IN (194, 195) THEN
            said := CASE tag WHEN 194 THEN 'false' ELSE 'true' END;
        ELSIF tag = 192 THEN
            said := 'null';
        ELSIF tag BETWEEN 204 AND 211 THEN
            number := bits;
            IF tag = 207 AND bits < 0 THEN
                number := number + 18446744073709551616;
            ELSIF tag BETWEEN 208 AND 210 AND bits >= 1::int8 << (8 * wide - 1) THEN
                number := number - (1::int8 << (8 * wide));
            END IF;
            said := number::text;
        ELSIF tag = 203 THEN
            said := perdure.float_of(bits, 11, 52);
        ELSIF tag = 202 THEN
            said := perdure.float_of(bits, 8, 23);
        ELSE
            RETURN NULL;
        END IF;
        IF is_key AND left(said, 1) <> '"' THEN
            said := '"' || said || '"';
        END IF;
        is_key := false;
        told[cardinality(told) + 1] := said;
        WHILE depth > 0 AND lefts[depth] = 0 LOOP
            told[cardinality(told) + 1] := CASE WHEN maps[depth] THEN '}' ELSE ']' END;
            depth := depth - 1;
            begun := true;
        END LOOP;
        EXIT WHEN depth = 0;
    END LOOP;
    RETURN CASE WHEN place = size THEN array_to_string(told, '')::jsonb END;
EXCEPTION WHEN others THEN
    RETURN NULL;  -- no msgpack, or something that jsonb has no form for, like a NUL
END
$function$
"""
"""A payload, msgpack, as JSON; null where it has no such form."""

_END_OF: Final = """
CREATE FUNCTION perdure.end_of(ends bytea, place int) RETURNS int LANGUAGE sql IMMUTABLE AS $function$
    SELECT CASE WHEN place > 0 THEN
        (get_byte(ends, 4 * place - 4) << 24) + (get_byte(ends, 4 * place - 3) << 16) + (get_byte(ends, 4 * place - 2) << 8) + get_byte(ends, 4 * place - 1)
        ELSE 0 END
$function$
"""

_EVENTS: Final = """
CREATE VIEW perdure.events AS
SELECT r.position - r.events + e.place AS position, r.stream, r.seq + e.place - 1 AS seq, r.type, r.version, r.at, r.tags,
    perdure.json_of(e.payload) AS data, e.payload, r.extra, r.commit, r.ordinal + e.place - 1 AS ordinal, r.commit_end
FROM perdure.runs r CROSS JOIN LATERAL (
    SELECT 1 AS place, r.payload WHERE r.ends IS NULL
    UNION ALL
    SELECT place, substring(r.payload FROM perdure.end_of(r.ends, place - 1) + 1 FOR perdure.end_of(r.ends, place) - perdure.end_of(r.ends, place - 1))
    FROM generate_series(1, r.events) AS place WHERE r.ends IS NOT NULL
) e
"""

_STREAMS: Final = """
CREATE VIEW perdure.streams AS
SELECT n.name, n.first, l.last, l.position
FROM perdure.names n CROSS JOIN LATERAL (
    SELECT r.seq + r.events - 1 AS last, r.position FROM perdure.runs r WHERE r.stream = n.name ORDER BY r.seq DESC LIMIT 1
) l
"""

_EVENTS_LEFT: Final = (
    _EVENTS.replace("CREATE VIEW", "CREATE OR REPLACE VIEW").replace("perdure.runs r CROSS", "perdure.runs r JOIN perdure.names n ON n.name = r.stream CROSS")
    + "WHERE r.seq + e.place - 1 >= n.first"
)

_STREAMS_LEFT: Final = """
CREATE OR REPLACE VIEW perdure.streams AS
SELECT n.name, n.first, coalesce(l.last, n.first - 1) AS last, coalesce(l.position, n.cut) AS position, n.cut, n.archive
FROM perdure.names n LEFT JOIN LATERAL (
    SELECT r.seq + r.events - 1 AS last, r.position FROM perdure.runs r WHERE r.stream = n.name ORDER BY r.seq DESC LIMIT 1
) l ON true
"""

STEPS: Final = (
    _FLOAT_OF,
    _JSON_OF,
    _END_OF,
    _EVENTS,
    _STREAMS,
    "COMMENT ON VIEW perdure.events IS 'The log. data: the payload as JSON, where there is such a form.'",
    "COMMENT ON VIEW perdure.streams IS 'Each stream: its first and last seq, and the position of its last event.'",
)
"""What makes them, beside the tables,"""
STEPS_WITH_CUTS: Final = (
    _EVENTS_LEFT,
    _STREAMS_LEFT,
    "COMMENT ON VIEW perdure.streams IS 'Each stream: its first and last seq, the position of its last event, and of the newest that was cut.'",
)
"""and makes them again, where fronts of streams may have been cut."""
